"""What to cite: fedsim, the method's paper, the data set; as the method and data cards have it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedsim.report.blocks import Block, Items, Section, Text
from fedsim.report.record import Record

_FEDAVG = (
    "McMahan, B., Moore, E., Ramage, D., Hampson, S., Agüera y Arcas, B.: Communication-Efficient "
    "Learning of Deep Networks from Decentralized Data. AISTATS 2017. arXiv:1602.05629"
)
_GDD = (
    "Tian, Y., Wang, J., Jin, Y., Wang, L.: Communication-Efficient Federated Skin Lesion "
    "Classification with Generalizable Dataset Distillation. MICCAI 2023 Workshops. "
    "doi:10.1007/978-3-031-47401-9_2"
)
_METHODS = {
    "fedavg": _FEDAVG,
    "gdd": _GDD,
    "dm": "Zhao, B., Bilen, H.: Dataset Condensation with Distribution Matching. WACV 2023. "
    "arXiv:2110.04181",
    "dsa": "Zhao, B., Bilen, H.: Dataset Condensation with Differentiable Siamese Augmentation. "
    "ICML 2021. arXiv:2102.08259",
    "dc": "Zhao, B., Mopuri, K. R., Bilen, H.: Dataset Condensation with Gradient Matching. "
    "ICLR 2021. arXiv:2006.05929",
    "condist": "Wang, P., Shen, C., Roth, H. R., et al.: ConDistFL: Conditional Distillation for "
    "Federated Learning from Partially Annotated Data. MICCAI 2023 Workshops. arXiv:2308.04070",
    "dp_sgd": "Abadi, M., Chu, A., Goodfellow, I., et al.: Deep Learning with Differential "
    "Privacy. CCS 2016.",
}
_DATA = {
    "isic2020": "Rotemberg, V., et al.: A patient-centric dataset of images and metadata for "
    "identifying melanomas using clinical context. Scientific Data 8, 34 (2021). "
    "doi:10.1038/s41597-021-00815-z",
    "ham10000": "Tschandl, P., Rosendahl, C., Kittler, H.: The HAM10000 dataset, a large "
    "collection of multi-source dermatoscopic images of common pigmented skin lesions. Scientific "
    "Data 5, 180161 (2018). doi:10.1038/sdata.2018.161",
    "promise12": "Litjens, G., et al.: Evaluation of prostate segmentation algorithms for MRI: the "
    "PROMISE12 challenge. Medical Image Analysis 18, 359-373 (2014). "
    "doi:10.1016/j.media.2013.12.002",
    "prostatex": "Litjens, G., et al.: Computer-aided detection of prostate cancer in MRI. IEEE "
    "Transactions on Medical Imaging 33, 1083-1092 (2014). doi:10.1109/TMI.2014.2303821",
    "msd": "Antonelli, M., et al.: The Medical Segmentation Decathlon. Nature Communications 13, "
    "4128 (2022). doi:10.1038/s41467-022-30695-9",
}


def section(record: Record) -> Section:
    """Software, papers, data."""
    run, data = record.run, record.run["data"]
    version = (run.get("versions") or {}).get("fedsim-medical")
    told = f"fedsim{f', version {version}' if version else ''}"
    if run.get("git_commit"):
        told += f", commit {str(run['git_commit'])[:12]}"
    lines = [
        f"The fedsim developers: {told}. Federated and privacy-preserving learning in medical "
        "imaging, simulated. Software, Apache-2.0."
    ]
    papers = [_METHODS[name] for name in _methods(record) if name in _METHODS]
    lines += [f"The method: {paper}" for paper in dict.fromkeys(papers)]
    blocks: list[Block] = []
    if data["source"] == "embedded":
        lines.append(f"The data: fedsim's generated stand-in for {data['name']}. No images of it.")
    elif data["name"] in _DATA:
        lines.append(f"The data: {_DATA[data['name']]}")
    else:
        lines.append(f"The data: whoever gave you {data['name']}, as its licence asks.")
    if not papers:
        lines.append("The method: as its authors ask; fedsim knows no paper of it.")
    blocks = [Text("If the numbers go into a text:"), Items(lines)]
    return Section("cite", "How to cite it", blocks)


def _methods(record: Record) -> Iterable[str]:
    """Names of the strategy, the matching, the client method and the mechanism."""
    scenario: dict[str, Any] = record.scenario
    for key in ("strategy", "client"):
        block = scenario.get(key)
        if isinstance(block, dict):
            yield str(block.get("name"))
            yield str(block.get("matching"))
    plan = record.run.get("privacy")
    if isinstance(plan, dict):
        yield str(plan.get("mechanism")).partition("+")[0]
