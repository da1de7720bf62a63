"""The keeper of jobs as a process: a service with a queue on a folder, which runs until it is killed.

python -m tests.drills.keeper FOLDER PORT
"""

import sys

import uvicorn

from serve.api.routes import Services, make_api
from serve.inference.diffusion_worker import DiffusionWorker
from serve.inference.face_worker import FaceWorker
from serve.jobs.queue import JobQueue
from tests.serve.conftest import StillSee

if __name__ == "__main__":
    folder, port = sys.argv[1:]
    face_worker, diffusion_worker = FaceWorker(StillSee()), DiffusionWorker.load({"tiny": "tiny"})
    jobs = JobQueue(folder, face_worker, diffusion_worker)
    services = Services(face_worker, diffusion_worker, jobs=jobs)
    uvicorn.run(make_api(services), port=int(port), log_level="warning")
