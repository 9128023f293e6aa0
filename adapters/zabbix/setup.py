"""What the page of a source of Zabbix says and shows."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from openremedy.adapter import SetupStep

MEDIA = Path(__file__).with_name("media_openremedy.yaml").read_text("utf-8")

SUMMARY = (
    "A media type for Zabbix 6.0 and newer: problems, acknowledgements, comments and recoveries, with their hosts."
)
SETUP = (
    SetupStep(
        "Import the media type",
        "Save this as media_openremedy.yaml. In Zabbix: Alerts > Media types > Import (before 6.4: Administration > "
        "Media types). Import it again for a newer one: nothing of yours is in it.",
        MEDIA,
    ),
    SetupStep(
        "A global macro {$OPENREMEDY.URL} with the address",
        "In Administration > Macros (before 6.4: Administration > General > Macros). Where {$ZABBIX.URL} is set to the "
        "address of Zabbix's own pages, incidents link back.",
        "{url}",
    ),
    SetupStep(
        "A global macro {$OPENREMEDY.TOKEN} with the token",
        "In the same place. Choose Secret text for it, so that nobody can read it there again.",
        "{token}",
    ),
    SetupStep(
        "Give a user the media",
        "In Users > Users (before 6.4: Administration > Users) take a user who may read all hosts that are to be "
        "told; one of its own is best. On its tab Media add one: Type OpenRemedy, and as Send to anything.",
        "openremedy",
    ),
    SetupStep(
        "Let an action send to it",
        "In Alerts > Actions > Trigger actions (before 6.4: Configuration > Actions) add Send message to that user, "
        "only to OpenRemedy, in all three: Operations, Recovery operations and Update operations.",
    ),
    SetupStep(
        "Test",
        "In the list of media types press Test, and write the address into url and the token into token: macros are "
        "not resolved there. It opens no incident here.",
    ),
)
HINTS = {
    "reached": "Nothing has arrived yet. Reports > Action log in Zabbix shows what became of each message; Test in "
    "the list of media types ticks the first three lines.",
    "host": "No problem so far names its host. Import the media type once more: its parameter host is {HOST.HOST}.",
    "type": "Every problem so far is of the type custom. Give the triggers a tag incident_type, such as disk_full.",
    "severity": "No problem so far says how bad it is: Not classified counts as medium.",
    "recovery": "No problem has ended yet. Are there Recovery operations in the action?",
}


def sample(hostname: str, at: datetime, ended: bool) -> dict[str, Any]:
    """A message of the media type, as a server with the clock of UTC sends it."""
    number = str(int(at.timestamp() * 1_000_000))
    over = at + timedelta(seconds=ended)
    told = {
        "event_source": "0",
        "event_id": number,
        "event_value": "0" if ended else "1",
        "event_name": "/: Disk space is low (a test alert of OpenRemedy)",
        "event_nseverity": "4",
        "event_severity": "High",
        "event_tags": '[{"tag": "filesystem", "value": "/"}]',
        "event_time": f"{at:%Y.%m.%d %H:%M:%S}",
        "event_timestamp": str(int(at.timestamp())),
        "event_update_status": "0",
        "host": hostname,
        "trigger_id": "1",
        "item_name": "Space utilization",
        "item_key": "vfs.fs.size[/,pused]",
        "item_value": "94.5",
    }
    recovery = {
        "event_recovery_time": f"{over:%Y.%m.%d %H:%M:%S}",
        "event_recovery_timestamp": str(int(over.timestamp())),
    }
    now = {"schema": "openremedy.zabbix/1", "sent_at": str(int(over.timestamp())), "local_now": told["event_time"]}
    return now | told | (recovery if ended else {})
