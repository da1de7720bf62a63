"""All commands by task: name, module and the line of `rigface --help`."""

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Edit": {
        "edit": ("editing", "Change pose, expression or light of a face in an image or a video"),
        "swap": ("editing", "Put the face of one person in the place of another's"),
        "animate": ("editing", "Drive the face of an image by a video"),
        "strip": ("editing", "Show what editing does to a face, as one image"),
        "sliders": ("editing", "List the numbers an edit can have"),
        "verify": ("editing", "Tell if images and videos were made here, and by which edit"),
        "serve": ("", "Edit faces in the browser, over HTTP"),
    },
    "Datasets of faces": {
        "extract": ("datasets", "Turn videos and images into a dataset of faces"),
        "status": ("datasets", "Show how far a dataset is"),
        "inspect": ("datasets", "Make an HTML page of a dataset: faces, distributions, failures"),
        "convert": ("datasets", "Give a dataset the coefficients of another reconstructor"),
        "forget": ("datasets", "Remove inputs from a dataset, whose sources are gone for good"),
        "adopt": ("datasets", "Make the uris of a dataset relative to a folder, for another mount"),
        "identities": ("datasets", "Cluster the faces of a dataset into persons"),
        "forecast": ("datasets", "Estimate time, bytes and cost of an extraction"),
    },
    "Study": {
        "study": ("studies", "Measure faces: action units, gaze, blinks, head velocity, by frame and track"),
        "export": (
            "studies",
            "Write the files of OpenFace, py-feat, load_dataset, WebDataset, edit trainers",
        ),
    },
    "Models": {
        "pair": ("learning", "Make training examples from a dataset"),
        "autoencoder": ("learning", "Fit a small autoencoder to a dataset"),
        "encode": ("learning", "Encode training examples as latents"),
        "refine": ("learning", "Train the small network that corrects previews"),
        "train": ("learning", "Fine-tune a model, or train a small one from scratch"),
        "compare": ("learning", "Train a model by every recipe on the same examples, and compare them in one card"),
        "evaluate": ("learning", "Compare models on held-out people in a report card"),
        "judge": ("learning", "Compare results of any editors, ours or others', in the same report card"),
    },
    "Weights": {
        "assets": ("assets", "Link, list and check weights and licensed files that you downloaded"),
        "model": ("assets", "Fetch a model from the Hugging Face Hub, or upload your own"),
    },
    "Clusters": {
        "submit": ("cluster", "Run one of these jobs on a Ray cluster"),
        "jobs": ("cluster", "List, follow and cancel jobs on a Ray cluster"),
    },
}
MODULES = {name: module for group in GROUPS.values() for name, (module, _) in group.items()}
EXAMPLES = """  rigface edit photo.jpg out.png --yaw 15 --smile 0.6 --light-azimuth 40
  rigface extract clips/ out/faces
  rigface inspect out/faces"""


def overview() -> str:
    """The text of `rigface --help`."""
    lines = ["Change pose, expression and light of faces in images and videos, and keep the person.", ""]
    lines += ["usage: rigface COMMAND ...", ""]
    for title, commands in GROUPS.items():
        lines += [title, *(f"  {name:<12} {line}" for name, (_, line) in commands.items()), ""]
    lines += ["Examples", EXAMPLES, "", "rigface COMMAND --help lists the flags of a command."]
    return "\n".join(lines)
