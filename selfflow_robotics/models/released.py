"""The paper's released weights, from Hugging Face."""

from pathlib import Path

from selfflow_robotics.errors import UserError

REPOSITORY = "Hila/Self-Flow"
FILE = "selfflow_imagenet256.pt"  # SiT-XL/2, ImageNet at 256 px, 2.7 GB
NAMES = ("released", REPOSITORY, FILE)  # the name for them in commands, unless such a file exists


def fetch_released(download: bool) -> Path:
    """The weights file in Hugging Face's cache; downloaded only with `download`.

    Raises UserError if huggingface_hub, the file or the network is missing.
    """
    try:
        from huggingface_hub import hf_hub_download, logging
    except ImportError:
        raise UserError(
            f"downloading {FILE} needs huggingface_hub: pip install 'selfflow_robotics[images]', "
            "or download the file yourself and pass its path"
        ) from None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns about each failed attempt; the error below is enough
    try:
        return Path(hf_hub_download(REPOSITORY, FILE, local_files_only=not download))
    except (OSError, ValueError) as error:
        if not download:
            raise UserError(
                f"the released weights were not found; use download=true to download {FILE} (2.7 "
                f"GB) from Hugging Face ({REPOSITORY}), or pass the path of that file"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot download {FILE} from Hugging Face ({reason}); check the network connection, "
            "or pass the path of that file"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
