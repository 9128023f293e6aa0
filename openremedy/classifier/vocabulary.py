"""What monitoring people know about words: which mean the same, and which exclude each other. Data; no code.

Written for the trade as a whole, not for one set of rules; measured in docs/classifier.md. A line of CONCEPTS is a
name and the words that speak of it, `_` joins two words that stand side by side. A line of CONTRASTS holds alternatives
of which a thing is usually only one, `|` joins words for the same alternative: where the incident says one and a recipe
says only others, the recipe is about something else.
"""

CONCEPTS = """
storage: disk filesystem file_system volume mount mountpoint partition fs pv pvc persistentvolume persistent_volume tablespace
space: space free_space full capacity almost_full fill avail enospc
memory: memory mem ram heap oom swap outofmemory oomkilled
cpu: cpu cores processor load throttle throttled throttling
network: network nic interface packet packets bandwidth connectivity
receive: receive received rx ingress inbound incoming
transmit: transmit transmitted tx egress outbound outgoing send sending
kubernetes: kubernetes kube k8s
host: host node machine server hypervisor
clock: clock ntp skew drift chrony timesync
down: down unreachable unavailable absent disappeared missing offline dead gone lost vanished inactive disconnected unhealthy not_running
fail: fail failed failing failure failures error errors err errs unsuccessful unable cannot rejected refused broken exception problem problems
slow: slow slowly latency latencies duration durations delay delayed lag lagging behind stuck long
high: high many excessive burst saturated saturation overload overloaded pressure exceed exceeded exceeds exceeding above large extremely
low: low less below insufficient enough fewer few under
stale: stale outdated expired old sync synced synchronized obsolete deprecated
certificate: certificate certificates cert certs tls ssl x509 ca signer
expire: expire expires expired expiration expiring expiry renew renewal renewed rotate rotation
database: database databases db postgres postgresql mysql mariadb mongodb cnpg sql cloudnativepg
vm: vm vms vmi vmis virtual_machine guest
config: config configuration configurations configmap conf settings reload reloaded reloading reloader
quorum: quorum leader leaders leading member members majority election elections master primary
replica: replica replicas replication replicated replicating copies standby secondary mirror mirroring
restart: restart restarts restarted restarting crash crashing crashed crashloop crash_loop crashlooping crash_looping backoff crashloopbackoff reboot rebooted
ready: ready readiness unready not_ready notready
schedule: schedule scheduled unschedulable pending scheduling unscheduled misscheduled waiting
rollout: rollout rolled update updated updates upgrade upgrading generation version progress rolling
heartbeat: heartbeat watchdog deadmanswitch dead_man man_switch always_firing
apiserver: apiserver api_server kube_apiserver
queue: queue queues backlog queued
quota: quota quotas limit limits limited budget overcommit overcommitted threshold
container: container containers pod pods workload workloads sidecar
daemonset: daemonset daemon_set
statefulset: statefulset stateful_set
deployment: deployment deployments replicaset replica_set
job: job jobs cronjob cron
fsync: fsync fdatasync wal commit sync_duration
user: tenant tenants user users customer
drop: drop dropped dropping discard discarded lost reject
scrape: scrape scraped scrapes target targets scraping collect collector
rule: rule rules evaluation evaluations ruler recording
lease: lease lock elected leading
snapshot: snapshot backup backups restore
migration: migration migrations migrate migrating evict evicted eviction drain draining
image: image images registry pull import imported
health: health healthy unhealthy degraded degrade
object: object bucket objects buckets claim
dns: dns resolve lookup lookups coredns nxdomain
http: http https 5xx 4xx 500 503 request requests response responses rest
mimir: mimir cortex
ceph: ceph odf ocs rook rados rbd
ovn: ovn ovnkube northbound southbound
inode: inode inodes files
"""

CONTRASTS = """
cpu memory|mem|oom|ram disk|storage|filesystem|volume|space network|nic|interface
receive|rx|ingress transmit|transmitted|send|tx|egress
northbound southbound
read write
client server
critical warning
space files|inodes
target label sample body
daemonset|daemon statefulset|stateful deployment job|cronjob node hpa
frontend scheduler ingester distributor|distribution compactor|compaction query|querier ruler|rule alertmanager gateway
bytes objects
high|large|excessive low|insufficient|less|fewer
logical physical
request quota
error down|absent|unavailable
primary replica|standby
source|src destination|dest
certificate|cert token secret
day hour
monitor|mon osd mgr mds
api controller|control handler operator|operation launcher
any some all
horizontal vertical
pod node cluster namespace
predict|predicted|forecast|fill|trend|within low|enough|left|remaining|almost|short
start|startup stop|shutdown
"""

# Said of every alert and every recipe, so that they tell nothing.
STOP_WORDS = """
a about after all also an and any are as at be been being but by can could do does for from had has have if in into is
it its may more most no not of on or other so some such than that the their them then there these they this to too up
very via when use used using was were what where which while who will with would you your eg we our us
alert alerts alertname instance job severity value label labels annotation annotations summary description status firing
fire fires fired triggered trigger triggers state info www com last current currently recipe runbook
url name true false null meaning impact diagnosis mitigation see check following minutes minute min hours hour seconds
second var usr lib opt srv mnt bin share local percent pct total used mb gb threshold top largest process usage utilization utilisation data
"""

# What listens where, in the words that a recipe would use.
PORTS = {
    "21": "ftp",
    "22": "ssh",
    "25": "mail smtp",
    "53": "dns",
    "80": "http web",
    "110": "mail pop3",
    "123": "ntp",
    "143": "mail imap",
    "389": "ldap",
    "443": "https http web tls",
    "465": "mail smtp",
    "587": "mail smtp submission",
    "636": "ldap tls",
    "993": "mail imap",
    "1433": "database sqlserver",
    "1521": "database oracle",
    "2049": "nfs",
    "2379": "etcd",
    "3306": "database mysql mariadb",
    "3389": "rdp",
    "5432": "database postgresql",
    "5672": "rabbitmq queue",
    "6379": "redis",
    "6443": "kubernetes apiserver",
    "9042": "database cassandra",
    "9090": "prometheus",
    "9092": "kafka queue",
    "9200": "elasticsearch",
    "11211": "memcached",
    "27017": "database mongodb",
}
