"""Changes of picture and text under which answers should stay: 20 of pictures at 96 levels, 35 of texts at 87.

Usable without a model and without torch, one documented function each:

    from steadyvlm.perturb import image, text

    noisy = image.gaussian_noise(picture, severity=3)
    asked = text.typos("What is the man holding?", severity=2)

What comes out depends on the content, the perturbation, the severity and the suite's version only: never on the order,
the process or the machine's state. `suite` lists all levels; a level is written `image/gaussian_noise@3`.
"""
