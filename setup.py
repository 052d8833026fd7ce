from pathlib import Path

from setuptools import find_packages, setup

TOOLS = ["timm>=1.0.31", "matplotlib>=3.8", "pyyaml>=6", "rich>=13", "scikit-learn>=1.4"]

# tools/install_mm.sh installs these, and mmcv, which pip alone would build without its operators
MM = ["onedl-mmengine==0.10.12", "onedl-mmdetection==3.5.1", "onedl-mmsegmentation==1.4.2"]

setup(
    name="attention-backbones",
    version="0.1.0",
    description="Attention backbones that timm lacks, in timm's registry",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["backbones", "backbones.*"]), "backbones.zoo_weights"],
    package_dir={"backbones.zoo_weights": "zoo_weights"},
    package_data={"backbones.zoo_weights": ["*.json"]},
    python_requires=">=3.10",
    install_requires=["torch>=2.7", "timm>=1.0.20"],
    extras_require={
        "tools": TOOLS,
        "mm": MM,
        "test": [
            *TOOLS,
            "fvcore>=0.1.5.post20221221",
            "hypothesis>=6.100",
            "numpy",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff==0.17.5",
            "setuptools>=77",  # builds natten
        ],
    },
)
