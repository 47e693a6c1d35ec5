"""What a backbone is built from, as values that a recipe or a header can hold. No torch here."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

SMALL_RESNET = "small-resnet"
TIMM = "timm:"


class BackboneSpec(BaseModel):
    """What a backbone is built from; two backbones of one spec differ in their weights alone.

    Attributes:
        name: `small-resnet`, or `timm:` and the name of any timm model, such as `timm:resnet50`.
        dim: dimensions of the embedding. `None`, for timm models only: the model's own pooled
            output, which is what a pretrained model should give where nothing is trained on it.
        size: height and width of the images, in pixels.
        channels: 1 for grey images, 3 for colour.
        width: channels of a small ResNet's first stage; timm models have their own.
        blocks: residual blocks in each stage of a small ResNet; timm models have their own.
        pretrained: begin with the weights that timm offers, which are fetched from the hub.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = SMALL_RESNET
    dim: int | None = Field(default=128, ge=1)
    size: int = Field(default=32, ge=4)
    channels: int = Field(default=3, ge=1, le=3)
    width: int = Field(default=32, ge=1)
    blocks: int = Field(default=1, ge=1)
    pretrained: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> "BackboneSpec":
        if self.name == SMALL_RESNET:
            if self.dim is None:
                raise ValueError(f"{SMALL_RESNET} needs a dim, such as 128")
            if self.pretrained:
                raise ValueError(f"{SMALL_RESNET} has no pretrained weights; train it")
        return self
