"""Networks that answer questions about images, as judges: VQAScore (arXiv 2404.01291) and yes/no checklists.

CLIP-FlanT5 is put together here from T5 and CLIP of transformers, under the parameter names of its checkpoints; chat
models of the Qwen-VL families are transformers' own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from diffusionbench.judges import CHECKLISTS, FLAN_T5, QWEN, QWEN_ORIGINAL, Unjudged, hub
from diffusionbench.judges.clip import PREPROCESSING, centred
from diffusionbench.judges.network import RowJudge
from diffusionbench.registry import require
from diffusionbench.sample import Item
from diffusionbench.specs import JudgeSpec

SYSTEM: Final = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
#: CLIP's mean colour times 255, truncated.
PADDING: Final = (122, 116, 104)
_TOKENS: Final = 2048
_IMAGE: Final = "<|image_pad|>"


class ClipFlanT5:
    """CLIP's patches, projected, in the middle of a question to FlanT5.

    Raises:
        UserError: if transformers or the weights are not there, or tensors of the checkpoint are missing.
    """

    def __init__(self, row: JudgeSpec, device: str) -> None:
        transformers = require("transformers", hub.EXTRA, f"judge '{row.name}'")
        checkpoint, words, tower = row.hub
        with hub.found(f"judge '{row.name}'", checkpoint):
            config = hub.pretrained(transformers.T5Config, checkpoint)
            # Newer libraries tie the output matrix to the embeddings by themselves, and scale what it is given.
            config.tie_word_embeddings = config.scale_decoder_outputs = False
        with hub.found(f"judge '{row.name}'", words):
            self._tokenizer = hub.pretrained(transformers.AutoTokenizer, words)
        with hub.found(f"judge '{row.name}'", tower):
            vision = hub.pretrained(transformers.CLIPVisionConfig, tower)
        names = {r"^vision_tower\.vision_tower\.(vision_model\.)?": "vision_tower."}
        network = hub.load(row, _clip_t5(transformers, vision), device, config=config, key_mapping=names)
        # Untied as a whole, the library draws these two anew.
        network.encoder.embed_tokens = network.decoder.embed_tokens = network.shared
        self._side = vision.image_size
        self._device = device
        self._network: Any = network
        self.digest, self.is_stand_in = hub.weights_digest(network), hub.is_stand_in(network)

    @torch.inference_mode()
    def probability(self, image: np.ndarray, question: str, answer: str) -> float:
        """Return the geometric mean of the probabilities of the tokens of an answer and of its end."""
        network = self._network
        before, after = (self._ids(text) for text in (f"{SYSTEM} USER: ", f"\n{question} ASSISTANT: "))
        patches = network.patches(centred(squared(image), self._side)[None].to(self._device, network.dtype))
        words = [network.shared(ids[None, :_TOKENS]) for ids in (before, after)]
        labels = self._ids(answer)[None]
        logits = network(inputs_embeds=torch.cat([words[0], patches, words[1]], dim=1), labels=labels).logits
        chosen = logits[0].float().log_softmax(dim=-1).gather(1, labels[0][:, None])
        return float(chosen.mean().exp())

    def _ids(self, text: str) -> Tensor:
        """Return the tokens of a piece, its own end among them."""
        ids: Tensor = self._tokenizer(text, return_tensors="pt").input_ids[0].to(self._device)
        return ids


def squared(image: np.ndarray) -> np.ndarray:
    """Return an image uint8 [H, W, 3] in the middle of a square of CLIP's mean colour."""
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), PADDING, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _clip_t5(transformers: Any, vision: Any) -> Any:
    """Return the class of the network: T5 with `vision_tower` and `mm_projector`."""

    class ClipT5(transformers.T5ForConditionalGeneration):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.vision_tower = transformers.CLIPVisionModel(vision)
            wide = config.d_model
            self.mm_projector = nn.Sequential(nn.Linear(vision.hidden_size, wide), nn.GELU(), nn.Linear(wide, wide))
            self.post_init()

        def patches(self, pixels: Tensor) -> Tensor:
            """Map pixels [B, 3, H, W] to vectors [B, patches, d], from the layer before the last."""
            states = self.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states
            projected: Tensor = self.mm_projector(states[-2][:, 1:])
            return projected

    return ClipT5


class ChatModel:
    """A chat model that sees images, through transformers' automatic class: Qwen2.5-VL, Qwen3-VL and later ones.

    Raises:
        UserError: if transformers or the weights are not there.
    """

    def __init__(self, row: JudgeSpec, device: str) -> None:
        self._network = hub.load(row, "AutoModelForImageTextToText", device)
        self._tokenizer = hub.processor(row, "AutoTokenizer")
        self._images = hub.processor(row, "AutoImageProcessor")
        self._device = device
        self.digest, self.is_stand_in = hub.weights_digest(self._network), hub.is_stand_in(self._network)
        self._first = {word: self._tokenizer.encode(word, add_special_tokens=False)[0] for word in ("Yes", "No")}

    @torch.inference_mode()
    def first_token(self, image: np.ndarray, question: str) -> dict[str, float]:
        """Return the probabilities that the answer starts with the first token of "Yes" and of "No"."""
        seen = self._images(images=[Image.fromarray(image)], return_tensors="pt")
        patches = int(seen["image_grid_thw"][0].prod()) // self._images.merge_size**2
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        ids = self._tokenizer(text.replace(_IMAGE, _IMAGE * patches, 1), return_tensors="pt").input_ids
        places = (ids == self._network.config.image_token_id).int()
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": places, **seen}
        given = {name: one.to(self._device) for name, one in given.items()}
        # Raw logits: a repetition penalty of the generation config would move them.
        odds = self._network(**given, use_cache=False).logits[0, -1].float().softmax(dim=-1)
        return {word: float(odds[place]) for word, place in self._first.items()}

    def probability(self, image: np.ndarray, question: str, answer: str) -> float:
        """Return the probability that the answer starts with the first token of "Yes" or "No"."""
        return self.first_token(image, question)[answer]


class Asking(RowJudge):
    """A network that is asked in words about each image."""

    network: ClassVar[type[ClipFlanT5 | ChatModel]]
    form: ClassVar[str]
    asks = True

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        self._net: Any = self.network(self.spec, device)
        self.is_stand_in = self._net.is_stand_in
        self.digest = self.digest_of({"weights": self._net.digest, "input": self.preprocessing, "form": self.form})


class VqaScore(Asking):
    """{"question", "answer": "Yes", "probability"}: how likely the network says that an image shows its item's text."""

    @classmethod
    def questions(cls, item: Item) -> tuple[str, ...]:
        """See `Judge.questions`."""
        return (cls.form.format(item.text),) if item.text else ()

    def row(self, image: np.ndarray, item: Item) -> dict[str, Any] | Unjudged:
        """See `RowJudge.row`."""
        (question,) = self.questions(item)
        odds = self._net.probability(image, question, "Yes")
        if not math.isfinite(odds):
            return Unjudged("the probability is not finite")
        return {"question": question, "answer": "Yes", "probability": odds}


class FlanT5Score(VqaScore):
    """VQAScore by CLIP-FlanT5."""

    network = ClipFlanT5
    form = 'Does this figure show "{}"? Please answer yes or no.'
    preprocessing = f"padded to a square of colour {PADDING}; {PREPROCESSING}"


class QwenScore(VqaScore):
    """VQAScore by a chat model, by the first token of its answer, with the published system's question."""

    network = ChatModel
    form = 'Does this image show "{}"?'
    preprocessing = "uint8, the checkpoint's own image processor"


class QwenScoreOriginal(QwenScore):
    """The same with the question of t2v_metrics, the metric's own release."""

    form = 'Does this figure show "{}"? Please answer Yes or No.'


class Checklist(Asking):
    """{"answers": [{"question", "answer", "probability"}, ...]} to the yes/no questions of an item, in their order.

    The answer is "yes" where that is likelier than no; the probability is that of a yes.
    """

    network = ChatModel
    form = "{} Please answer yes or no."
    preprocessing = QwenScore.preprocessing

    @classmethod
    def questions(cls, item: Item) -> tuple[str, ...]:
        """See `Judge.questions`."""
        return tuple(one["question"] for one in item.detail.get("questions", ()))

    def row(self, image: np.ndarray, item: Item) -> dict[str, Any] | Unjudged:
        """See `RowJudge.row`."""
        answers = []
        for asked in self.questions(item):
            odds = self._net.first_token(image, self.form.format(asked))
            if not all(map(math.isfinite, odds.values())):
                return Unjudged("a probability is not finite")
            word = "yes" if odds["Yes"] > odds["No"] else "no"
            answers.append({"question": asked, "answer": word, "probability": odds["Yes"]})
        return {"answers": answers}


# One class for each row of the table, which names it.
_KINDS: Final = ((FlanT5Score, FLAN_T5), (QwenScore, QWEN), (QwenScoreOriginal, QWEN_ORIGINAL), (Checklist, CHECKLISTS))
for _kind, _rows in _KINDS:
    for _row in _rows:
        _name = _row.load.partition(":")[2]
        globals()[_name] = type(_name, (_kind,), {"spec": _row, "__module__": __name__, "__doc__": _row.title})
