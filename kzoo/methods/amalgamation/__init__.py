"""Knowledge amalgamation: one student learns from several teachers on images without labels.

``kd`` is plain distillation of the teachers' soft targets over all classes that they know together; ``cfl`` adds common
feature learning (Luo et al., IJCAI 2019, arXiv 1906.10546). It is a reconstruction: the paper's text was not at hand, and the
authors' code has no license, so that nothing of it is copied. Its published settings are the preset ``official``.
"""

from __future__ import annotations
