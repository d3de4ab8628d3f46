"""`trackio`: a local database, or a Space at the hub."""

from ftcli.settings.ownership import PUSH
from ftcli.settings.tracker_declaration import Tracker, TrackerSetting

TRACKER = Tracker(
    name="trackio",
    summary="A database for trackio's dashboard, in the run; or a Space at the hub.",
    package="trackio",
    remedy="pip install 'ftcli[trackio]'",
    writer="ftcli.worker.trackers.trackio:TrackioRun",
    shown_by="TRACKIO_DIR=RUN/trackers/trackio trackio show",
    settings={
        "project": TrackerSetting(default="ftcli", text="Project that the run belongs to."),
        "space_id": TrackerSetting(
            grant=PUSH, text="Space at the hub, NAME or OWNER/NAME, that is sent the curve, in place of the database."
        ),
        "private": TrackerSetting(
            type=bool,
            needs="space_id=*",
            text="Whether a Space that is made for it is private; null is its owner's rule.",
        ),
    },
)
