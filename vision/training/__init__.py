"""Folders of labelled images -> the weights of a network, and how good they are."""

from typing import TYPE_CHECKING

from base.doors import lazy

if TYPE_CHECKING:
    from vision.training.augment import Augmentation
    from vision.training.dataset import ClassInfo, Dataset, LabelledImage, file_digests, fingerprint, read_dataset
    from vision.training.embeddings import embed, outlier_scores
    from vision.training.families import find_families, find_leaks, fold_by_family, split_by_family
    from vision.training.feature_cache import FeatureCache
    from vision.training.features import Digests, Extractor, load_pixels
    from vision.training.fitting import TrainingStopped, fit, predict_logits, scores_of
    from vision.training.metrics import (
        ClassScores,
        Reliability,
        class_scores,
        confused_pairs,
        confusion_matrix,
        cross_entropy,
        fit_temperature,
        group_accuracy,
        reliability,
        softmax,
        top_k_accuracy,
    )
    from vision.training.options import Epoch, FitOptions
    from vision.training.parts import build_frozen, build_trained, cut_of, frozen_spec
    from vision.training.rbf import (
        RbfCenters,
        choose_rbf_centers,
        draw_rbf_centers,
        logits_of_scores,
        nearest_of_other_families,
        rbf_scores,
        set_rbf_head,
        solve_ridge,
    )
    from vision.training.samples import Samples, StoredRows, class_weights, soft_targets
    from vision.training.sources import combine, paths_of
    from vision.training.table import read_table_dataset
    from vision.training.thresholds import are_accepted, find_thresholds
else:
    __getattr__ = lazy(__name__)
