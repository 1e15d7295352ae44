"""Observations for a policy: the image at the network's size, and RT-1's proprioception vector."""

import numpy as np

from selfflow_robotics.robot.rotations import from_wxyz


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale one image uint8 [H, W, 3] to uint8 [h, w, 3] by averaging areas.

    Integer reductions are exact block means, rounded half up; other sizes use Pillow's box filter.
    Training and live images both use this function, so they only differ by the JPEG compression of
    stored images.
    """
    (height, width), (h, w) = image.shape[:2], size
    if (height, width) == (h, w):
        return image
    if height % h == 0 and width % w == 0:
        return _block_mean(image, height // h, width // w)
    # Simulator workers render at the final size and do not need Pillow.
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BOX))


def _block_mean(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    # In the smallest type that holds a sum, and always along whole lines: numpy is several times as
    # fast on long contiguous arrays as on the few numbers of a block.
    height, width, channels = image.shape
    count = rows * columns
    kind = np.uint16 if count * 256 <= 2**16 else np.uint32
    parts = image.reshape(height // rows, rows, width * channels)
    lines = parts[:, 0].astype(kind)
    for row in range(1, rows):
        lines += parts[:, row]
    lines = lines.reshape(-1)
    # sums[i]: of the pixels from i on; every `columns`-th pixel starts a block.
    sums = lines.copy()
    for column in range(1, columns):
        sums[: -channels * column] += lines[channels * column :]
    blocks = np.stack([sums[c :: columns * channels] for c in range(channels)], axis=1)
    means = ((blocks + kind(count // 2)) // kind(count)).astype(np.uint8)
    return means.reshape(height // rows, width // columns, channels)


def proprio_vector(tool_pose: np.ndarray, base_pose: np.ndarray, gripper: float) -> np.ndarray:
    """RT-1's `base_pose_tool_reached` and `gripper_closed` as float32 [8].

    `tool_pose`, `base_pose`: [x, y, z, qw, qx, qy, qz] in the world; `gripper`: closedness, 0 to 1.
    Result: tool position (m) and quaternion xyzw (w >= 0) in the base frame, then the closedness.
    """
    to_base = from_wxyz(base_pose[3:]).inv()
    position = to_base.apply(np.subtract(tool_pose[:3], base_pose[:3]))
    quaternion = (to_base * from_wxyz(tool_pose[3:])).as_quat()
    if quaternion[3] < 0:
        quaternion = -quaternion
    return np.concatenate([position, quaternion, [gripper]]).astype(np.float32)
