"""The papers behind the methods: how they are cited, and how near to them kzoo's methods are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Paper:
    """A paper; ``nearness`` is one honest sentence on how near to it the method is.

    ``authors`` are as BibTeX has them; ``venue`` is a field of the entry with its value, such as ``journal``.
    """

    key: str
    title: str
    authors: str
    year: int
    nearness: str
    arxiv: str | None = None
    doi: str | None = None
    kind: str = "misc"
    venue: tuple[tuple[str, str], ...] = ()

    @property
    def link(self) -> str:
        """Where the paper is; the Hub makes a tag of an address at arXiv."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else f"https://doi.org/{self.doi}"

    @property
    def name(self) -> str:
        """What a link to it says."""
        return f"arXiv {self.arxiv}" if self.arxiv else f"doi {self.doi}"

    @property
    def bibtex(self) -> str:
        """Its entry."""
        fields = [("title", f"{{{self.title}}}"), ("author", self.authors), *self.venue, ("year", f"{self.year}")]
        if self.arxiv:
            fields += [("eprint", self.arxiv), ("archivePrefix", "arXiv")]
        if self.doi:
            fields.append(("doi", self.doi))
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields)
        return f"@{self.kind}{{{self.key},\n{lines}\n}}"


@dataclass(frozen=True)
class Method:
    """What people call a method, what it does in one clause, and its paper; baselines of kzoo's own have none.

    ``grows`` says that the source's own network is made larger, so that its weights stay where they were; ``fuses`` that
    several networks of one architecture become one without training.
    """

    name: str
    does: str
    paper: Paper | None = None
    grows: bool = False
    fuses: bool = False


_DPIAT = Paper(
    "czyzewski2022breaking",
    "Breaking the Architecture Barrier: A Method for Efficient Knowledge Transfer Across Networks",
    "Czyzewski, Maciej A. and Nowak, Daniel and Piechowiak, Kamil",
    2022,
    "kzoo rebuilt it from the authors' published code, for the paper's own text was not at hand: the variant paper is what "
    "that code does, full_state is kzoo's own and carries more.",
    arxiv="2212.13970",
)
_WEIGHT_SELECTION = Paper(
    "xu2024initializing",
    "Initializing Models with Larger Ones",
    "Xu, Zhiqiu and Chen, Yanjie and Vishniakov, Kirill and Yin, Yida and Shen, Zhiqiang and Darrell, Trevor and "
    "Liu, Lingjie and Liu, Zhuang",
    2024,
    "kzoo uses its uniform selection; layers are chosen by their names, and where the source is smaller, which the paper "
    "does not have, a layer stays random.",
    arxiv="2311.18823",
    kind="inproceedings",
    venue=(("booktitle", "International Conference on Learning Representations"),),
)
_NET2NET = Paper(
    "chen2016net2net",
    "Net2Net: Accelerating Learning via Knowledge Transfer",
    "Chen, Tianqi and Goodfellow, Ian and Shlens, Jonathon",
    2016,
    "kzoo's is a reconstruction from public implementations and reviews, for the paper's own text was not at hand.",
    arxiv="1511.05641",
    kind="inproceedings",
    venue=(("booktitle", "International Conference on Learning Representations"),),
)
_DILS = Paper(
    "wang2024dils",
    "DILS: depth incremental learning strategy",
    "Wang and Han, Zhi and Yu and Zhang and Liu and Fan",
    2024,
    "kzoo's is a reconstruction from the abstract, for no more of the paper was at hand.",
    doi="10.3389/fnbot.2023.1337130",
    kind="article",
    venue=(("journal", "Frontiers in Neurorobotics"), ("volume", "17"), ("pages", "1337130")),
)
_FUSION = Paper(
    "leontev2020noniterative",
    "Non-iterative knowledge fusion in deep convolutional neural networks",
    "Leontev and Islenteva and Sukhov",
    2020,
    "kzoo's is a reconstruction from the abstract, for no more of the paper was at hand: which variant is the paper's is not known.",
    arxiv="1809.09399",
    doi="10.1007/s11063-019-10074-0",
    kind="article",
    venue=(("journal", "Neural Processing Letters"),),
)
_AMALGAMATION = Paper(
    "luo2019knowledge",
    "Knowledge Amalgamation from Heterogeneous Networks by Common Feature Learning",
    "Luo, Sihui and others",
    2019,
    "kzoo's is a reconstruction from the authors' published code, for the paper's own text was not at hand.",
    arxiv="1906.10546",
    kind="inproceedings",
    venue=(("booktitle", "International Joint Conference on Artificial Intelligence"),),
)
_REGMEAN = Paper(
    "jin2023dataless",
    "Dataless Knowledge Fusion by Merging Weights of Language Models",
    "Jin, Xisen and Ren, Xiang and Preotiuc-Pietro, Daniel and Cheng, Pengxiang",
    2023,
    "kzoo uses its closed form for the linear layers and convolutions of networks for images, as a baseline.",
    arxiv="2212.09849",
    kind="inproceedings",
    venue=(("booktitle", "International Conference on Learning Representations"),),
)
_DISTILLATION = Paper(
    "hinton2015distilling",
    "Distilling the Knowledge in a Neural Network",
    "Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff",
    2015,
    "kzoo uses its soft targets.",
    arxiv="1503.02531",
)

#: Methods as recipes name them.
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "dpiat": Method(
            "DPIAT", "lays the weights of matched layers into each other, along a matching of architectures", _DPIAT
        ),
        "by_name": Method("loading by name", "carries every layer that has the same name and shape"),
        "weight_selection": Method(
            "weight selection", "carries evenly spaced entries of a larger network", _WEIGHT_SELECTION
        ),
        "random": Method("random initialisation", "carries nothing"),
        "random_pad": Method("random padding", "pads weights with random entries", grows=True),
        "net2wider": Method(
            "Net2WiderNet", "splits units, so that the wider network computes the same", _NET2NET, grows=True
        ),
        "net2deeper": Method("Net2DeeperNet", "inserts layers that change nothing at first", _NET2NET, grows=True),
        "dils": Method(
            "DILS", "inserts layers and fits them to the features of the shallower network", _DILS, grows=True
        ),
        "weight_sum": Method("weight summation", "adds up the weights of its sources", _FUSION, fuses=True),
        "nonessential": Method(
            "replacing nonessential weights",
            "lets each weight be decided by the sources that need it most",
            _FUSION,
            fuses=True,
        ),
        "regmean": Method(
            "RegMean", "merges linear maps in closed form, from the inputs' inner products", _REGMEAN, fuses=True
        ),
        "layerwise": Method(
            "layerwise least squares",
            "solves layer after layer for weights that give what the sources' layers give on unlabelled images; it is "
            "kzoo's own",
            fuses=True,
        ),
        "cfl": Method("common feature learning", "teaches a student the features of several teachers", _AMALGAMATION),
        "kd": Method("knowledge distillation", "teaches a student the soft answers of its teachers", _DISTILLATION),
    }
)


def method_of(name: str) -> Method:
    """A method by its name in recipes; of one that is not here, nothing but the name is known."""
    return METHODS.get(name) or Method(name, "is not described here")
