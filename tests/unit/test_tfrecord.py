"""The TFRecord container: known bytes, and every way in which a file can be damaged."""

import os
import struct

import pytest

from selfflow_robotics.data.rlds.tfrecord import masked_crc, read_records, write_record
from selfflow_robotics.errors import UserError

RECORDS = [b"first", b"", b"third" * 100]
SECOND = len(RECORDS[0]) + 16  # where the second record starts


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "set.tfrecord"
    with path.open("wb") as file:
        for record in RECORDS:
            write_record(file, record)
    return path


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_known_checksum():
    # CRC-32C's check value, rotated right by 15 and offset as record_writer.h does.
    crc = 0xE3069283
    assert masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_round_trip_with_positions(path):
    read = list(read_records(path))
    assert [data for _, data in read] == RECORDS
    whole = path.read_bytes()
    assert all(whole[at : at + len(data)] == data for at, data in read)
    assert whole[:8] == struct.pack("<Q", len(RECORDS[0]))


def test_flipped_bit_in_the_data(path):
    flip(path, 12)
    with pytest.raises(UserError, match=r"set\.tfrecord: record 0 .* is damaged"):
        list(read_records(path))
    assert len(list(read_records(path, check_data=False))) == 3


@pytest.mark.parametrize("position", [SECOND, SECOND + 7, SECOND + 9])
def test_flipped_bit_in_a_length_or_its_checksum(path, position):
    flip(path, position)
    with pytest.raises(UserError, match=r"record 1 .* damaged length"):
        list(read_records(path, check_data=False))


@pytest.mark.parametrize("cut", [1, 4, 100, 516 - 5])
def test_cut_inside_a_record(path, cut):
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"record 2 .* cut short"):
        list(read_records(path))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        list(read_records(tmp_path / "none"))


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no regular file"):
        next(read_records(tmp_path / "pipe"))


def test_tensorflow_writes_the_same_bytes(path, tmp_path):
    tf = pytest.importorskip("tensorflow")
    other = tmp_path / "other"
    with tf.io.TFRecordWriter(str(other)) as writer:
        for record in RECORDS:
            writer.write(record)
    assert other.read_bytes() == path.read_bytes()
