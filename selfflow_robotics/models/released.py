"""The paper's released weights, from Hugging Face."""

from pathlib import Path

from selfflow_robotics.errors import UserError

REPOSITORY = "Hila/Self-Flow"
FILE = "selfflow_imagenet256.pt"  # SiT-XL/2, ImageNet at 256 px, 2.7 GB
NAMES = ("released", REPOSITORY, FILE)  # what a command understands as them, if no such file exists


def fetch_released(download: bool) -> Path:
    """The weights file in Hugging Face's cache; put there first only if `download`.

    Raises UserError where huggingface_hub, the file or the network is missing.
    """
    try:
        from huggingface_hub import hf_hub_download, logging
    except ImportError:
        raise UserError(
            f"fetching {FILE} needs huggingface_hub: pip install 'selfflow_robotics[images]', or "
            "download the file yourself and give its path"
        ) from None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # each failed attempt is a warning; the error below says it all
    try:
        return Path(hf_hub_download(REPOSITORY, FILE, local_files_only=not download))
    except (OSError, ValueError) as error:
        if not download:
            raise UserError(
                f"the released weights are not on this machine; download=true fetches {FILE} "
                f"(2.7 GB) from Hugging Face ({REPOSITORY}), or give the path of that file"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot download {FILE} from Hugging Face ({reason}); check the "
            "network, or give the path of that file"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
