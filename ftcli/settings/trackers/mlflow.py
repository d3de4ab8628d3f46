"""`mlflow`: a local folder, or a tracking server."""

from ftcli.settings.ownership import ENDPOINT
from ftcli.settings.tracker_declaration import Tracker, TrackerSetting

TRACKER = Tracker(
    name="mlflow",
    summary="A folder of MLflow, in the run; or a tracking server.",
    package="mlflow",
    remedy="pip install 'ftcli[mlflow]'",
    writer="ftcli.worker.trackers.mlflow:MlflowRun",
    shown_by="MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri RUN/trackers/mlflow",
    settings={
        "experiment": TrackerSetting(default="ftcli", text="Experiment that the run belongs to."),
        "tracking_uri": TrackerSetting(
            grant=ENDPOINT,
            address=True,
            text="Address of a tracking server, http:// or https://; null keeps the run in its folder.",
        ),
    },
)
