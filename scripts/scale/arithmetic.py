"""From what was measured to ten million and a billion photographs: machines, hours, money.

Prices are of one provider and one day, with where they were read; put yours in their place.
"""

from dataclasses import dataclass

HOURS = 24.0  # in which a job is to be over
COUNTS = {"1 million": 10**6, "10 million": 10**7, "1 billion": 10**9}


@dataclass(frozen=True)
class Machine:
    """A machine that can be rented."""

    name: str
    vcpus: int
    dollars: float  # an hour
    source: str
    network: float  # gigabits a second that it may count on
    gpu: str = ""


CPU = Machine(
    "c5.2xlarge",
    8,
    0.34,
    "https://docs.amazonaws.cn/en_us/autoscaling/ec2/userguide/weights-spot-price-per-unit-hour-example.html",
    2.5,
)
SPOT = Machine("c5.2xlarge, spot", 8, 0.18, CPU.source, 2.5)
GPU = Machine(
    "g5.xlarge",
    4,
    1.006,
    "https://www.factualminds.com/blog/amazon-ec2-on-demand-pricing-instance-families-2026/",
    2.5,
    "A10G",
)
# Photographs a second of tf_efficientnet_lite1 at 240 pixels in half precision on an RTX 3090. An
# A10G has the same chip and 600 of its 936 GB/s, which is what such a network waits for.
GPU_ENCODER = 5688.0 * 600 / 936
GPU_SOURCE = (
    "https://github.com/huggingface/pytorch-image-models/blob/main/results/"
    "benchmark-infer-amp-nhwc-pt240-cu124-rtx3090.csv"
)
GET_DOLLARS = 0.0004 / 1000  # a request for an object of S3, us-east-1
GET_SOURCE = "https://aws.amazon.com/s3/pricing/"
GETS_PER_SECOND = 5500  # that a prefix of S3 answers
GETS_SOURCE = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html"


@dataclass(frozen=True)
class Estimate:
    """What so many photographs take on one kind of machine."""

    machine: Machine
    rate: float  # photographs a second of a machine
    bytes_each: float

    def dollars(self, photographs: int) -> float:
        return photographs / self.rate / 3600 * self.machine.dollars

    def machine_hours(self, photographs: int) -> float:
        return photographs / self.rate / 3600

    def machines(self, photographs: int) -> int:
        """Return how many are over within `HOURS`."""
        return max(1, -int(-self.machine_hours(photographs) // HOURS))

    def gigabits(self, photographs: int) -> float:
        """Return what all machines together read, in gigabits a second."""
        return self.machines(photographs) * self.rate * self.bytes_each * 8 / 1e9

    @property
    def network_share(self) -> float:
        """Return how much of its network a machine uses."""
        return self.rate * self.bytes_each * 8 / 1e9 / self.machine.network


def gpu_rate(decode_seconds: float) -> tuple[float, str]:
    """Return photographs a second of the machine with a GPU, and what holds it up.

    `decode_seconds` is what a photograph costs a core to decode.
    """
    decoded = GPU.vcpus / decode_seconds
    if decoded < GPU_ENCODER:
        return decoded, "decoding"
    return GPU_ENCODER, "the encoder"
