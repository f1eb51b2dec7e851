"""Parameters of question answering (VA-GPT)."""

from pydantic import Field

from alertclip.hyperparameters import Group


class QAParams(Group):
    """Questions, temporal classifier, tokens, and an optional vision-language model."""

    joined: int = Field(1, ge=1)  # test videos joined into one footage; 1 in the paper
    max_iou: float = Field(0.5, gt=0, lt=1)  # of a wrong time with events and other options; ours
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(32, ge=1)
    hidden: int = Field(256, ge=1)  # ours: unpublished
    epochs: int = Field(100, ge=1)  # ours: unpublished
    token_share: float = Field(0.5, gt=0, le=1)
    token_videos: int | None = None  # answered with selected tokens; None = all
    token_encoder: str = ""  # timm model whose patches are compared; empty: the backbone
    vlm: str = ""  # VA-GPT's language model: a LLaVA of transformers, by name or folder
    vlm_listed: bool = True  # list options, ask for a letter; False: compare their likelihoods
    vlm_frames: int = Field(8, ge=1)  # of each video; ours
    vlm_pool: int = Field(1, ge=1)  # k: averages k x k visual tokens; ours
    vlm_videos: int | None = None  # training videos; None = all
    vlm_rank: int = Field(128, ge=1)  # LLaVA's; alpha = 2 rank
    vlm_learning_rate: float = Field(2e-4, gt=0)  # LLaVA's for LoRA; unpublished
    vlm_batch_size: int = Field(8, ge=1)  # ours: unpublished
    vlm_steps: int = Field(1000, ge=1)  # on all tokens; ours: unpublished
    vlm_kept_steps: int = Field(150, ge=1)  # on kept tokens; the paper: fewer than 150
    vlm_seeds: list[int] = Field([0, 1, 2], min_length=1)
