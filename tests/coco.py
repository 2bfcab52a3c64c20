"""Reference scores by pycocoevalcap."""

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge


def coco_scores(references: dict[str, list[str]], hypotheses: dict[str, str]) -> tuple[list[float], float, float]:
    """BLEU-1 to 4, ROUGE-L and CIDEr-D by pycocoevalcap, for cleaned captions."""
    wrapped = {image: [caption] for image, caption in hypotheses.items()}
    bleus, _ = Bleu(4).compute_score(references, wrapped, verbose=0)
    rouge_l, _ = Rouge().compute_score(references, wrapped)
    cider, _ = Cider().compute_score(references, wrapped)
    return bleus, float(rouge_l), float(cider)
