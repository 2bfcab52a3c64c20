"""How well a caption fits a photo, without references: learnt from the training photos' features and captions.

Features and words in, scores out; knows no files. Shape letters: N training photos, Q captions to score, D features,
M dimensions of the semantic analysis.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler, normalize

from captionlab.config import SimilarityParams
from captionlab.metrics.cider import Words


class PhotoFit:
    """The cosine between what a caption means and what a photo's captions would mean, from -1 to 1.

    Meaning is latent semantic analysis (Deerwester et al. 1990) of the training captions' words, less the mean of all
    photos. A ridge regression predicts that of a photo's captions from its pooled features.
    """

    def __init__(self, pooled_ND: NDArray[np.float32], captions: Sequence[Sequence[Words]], params: SimilarityParams):
        self._words = TfidfVectorizer(analyzer=list, sublinear_tf=True, min_df=params.min_captions)
        self._words.fit([words for own in captions for words in own])
        together_NV = self._words.transform([[word for words in own for word in words] for own in captions])
        self._analysis = TruncatedSVD(min(params.semantic_dimensions, *together_NV.shape), random_state=params.seed)
        meaning_NM = normalize(self._analysis.fit_transform(together_NV))
        self._mean_M = meaning_NM.mean(0)
        self._scaler = StandardScaler().fit(pooled_ND)
        self._ridge = Ridge(params.ridge).fit(self._scaler.transform(pooled_ND), meaning_NM - self._mean_M)

    def scores(self, pooled_QD: NDArray[np.float32], captions: Sequence[Words]) -> NDArray[np.float64]:
        """(Q,) the fit of each caption to the photo of its row; 0 for a caption without a known word."""
        predicted_QM = normalize(self._ridge.predict(self._scaler.transform(pooled_QD)))
        said_QM = normalize(self._analysis.transform(self._words.transform(list(captions))))
        known_Q = said_QM.any(1)
        said_QM = normalize(said_QM - self._mean_M)
        fit_Q: NDArray[np.float64] = (predicted_QM * said_QM).sum(1) * known_Q
        return fit_Q
