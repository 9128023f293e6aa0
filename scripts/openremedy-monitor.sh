#!/usr/bin/env bash
# Watches one Linux host from cron and tells OpenRemedy what is wrong, and when it is right again.
# Needs bash 4.2, curl and openssl beside what every Linux has. How to set it up: docs/monitor.md.
#
# Three rules hold everywhere below:
# - The secret is only ever handled by bash itself (printf is a builtin): never in an argument list, never exported.
# - No here-documents and no temporary files: bash keeps those in /tmp, and the disk may be full just now.
# - What could not be looked at is neither firing nor resolved.
[ -n "${BASH_VERSION:-}" ] || { echo "openremedy-monitor: run it with bash" >&2; exit 2; }
{ set +x +a +o posix; } 2>/dev/null # a trace would write the secret into the log, "allexport" would hand it to children
set -u -o pipefail

readonly VERSION=1.0
readonly TRIES=4 # of one alert
readonly REPLY_SECONDS=15 # of one request
readonly RUN_SECONDS=180 # after the random wait: a run ends before cron starts the next
readonly MAX_RETRY_AFTER=60
readonly TYPES="disk_full cpu_high memory_high service_down port_unavailable"

# File systems that have no space of their own (tmpfs is memory, which has its own check), belong to another user's
# session, or are images that are always full, as snaps and DVDs are. overlay and aufs repeat the disk below them: they
# count on / only, where a container has nothing else. All the rest counts, also disks of the network.
readonly VIRTUAL="autofs binfmt_misc bpf cgroup cgroup2 configfs cramfs debugfs devfs devpts devtmpfs efivarfs erofs
fuse.gvfsd-fuse fuse.lxcfs fuse.portal fuse.snapfuse fuse.squashfuse fuse.vmware-vmblock fusectl hugetlbfs iso9660
mqueue nsfs proc pstore ramfs rootfs rpc_pipefs securityfs selinuxfs squashfs sysfs tmpfs tracefs udf"
readonly LAYERED=" overlay aufs fuse.fuse-overlayfs "

# Bash gives a variable that came from the environment back to it, with whatever it holds by then.
unset -v secret_text secret_hex secret_inner secret_outer

DRY_RUN=0
NO_WAIT=0
CHECKS=0
FIRING=0
SENT=0
FAILED=0
SERVER_AWAY=0
STATE_DIR=
LOCK_FOLDER=
EVIDENCE=
declare -A SEEN=()   # keys of checks of this run
declare -A BLIND=()  # types that could not be looked at
declare -A DEVICE=() FSTYPE=()

# ---------------------------------------------------------------- words

log() { # LEVEL TEXT
    local moment text=${2//[[:cntrl:]]/?}
    printf -v moment '%(%Y-%m-%dT%H:%M:%S%z)T' -1
    if [[ $1 == INFO ]] && (( ! DRY_RUN )); then # of a dry run standard output is the bodies alone
        printf '%s %s %s\n' "$moment" "$1" "$text"
    else
        printf '%s %s %s\n' "$moment" "$1" "$text" >&2
    fi
}

fail() { # TEXT: something could not be checked, sent or kept; the run goes on and ends with 1
    FAILED=$(( FAILED + 1 ))
    log ERROR "$1"
}

misconfigured() { # TEXT
    log ERROR "$1"
    exit 2
}

usage() {
    printf '%s\n' \
        "Usage: openremedy-monitor.sh [--dry-run] [--no-wait] [--help] [--version]" \
        "" \
        "Checks disks, load, memory, services and ports of this host and sends what is wrong to OpenRemedy." \
        "" \
        "  --dry-run   print the bodies that would be sent, send and remember nothing; needs no secret" \
        "  --no-wait   without the random wait at the start" \
        "" \
        "Environment: OREMEDY_URL, OREMEDY_TENANT, OREMEDY_SECRET or OREMEDY_SECRET_FILE (required)," \
        "  DISK_THRESHOLD, CPU_THRESHOLD, MEM_THRESHOLD (percent, 90 each), CHECK_SERVICES=\"nginx redis\"," \
        "  CHECK_PORTS=\"443:nginx 5432\", OREMEDY_HOSTNAME, OREMEDY_STATE_DIR, OREMEDY_JITTER (seconds, 20)," \
        "  OREMEDY_LARGEST_SECONDS (5; 0 = do not look for large files), OREMEDY_PROC (/proc; for tests)" \
        "" \
        "Exit codes: 0 all is sent, 1 something could not be checked, sent or kept (see the log)," \
        "  2 wrong configuration, 3 another run is active"
}

have() { command -v "$1" >/dev/null 2>&1; }

bounded() { # SECONDS COMMAND...: a dead network disk or name server must not hold the run
    local seconds=$1
    shift
    if have timeout; then timeout -k 2 "$seconds" "$@"; else "$@"; fi
}

split() { # TEXT: into WORDS, at blanks, line ends and commas
    IFS=$' ,\t\n' read -r -d '' -a WORDS < <(printf '%s' "$1") || true
}

# ---------------------------------------------------------------- text: bytes, UTF-8, JSON

byte() { # CHARACTER: its number into BYTE; with LC_ALL=C a character is a byte
    printf -v BYTE '%d' "'$1"
    (( BYTE &= 255 )) || true
}

decode() { # TEXT: its characters into CHARS and their numbers into CODES; what is not UTF-8 becomes U+FFFD
    local text=$1 at=0 more lowest code i
    CHARS=() CODES=()
    while (( at < ${#text} )); do
        byte "${text:at:1}"
        more=0 lowest=0 code=$BYTE
        if (( BYTE >= 0xf8 )); then code=-1
        elif (( BYTE >= 0xf0 )); then more=3 lowest=0x10000 code=$(( BYTE & 7 ))
        elif (( BYTE >= 0xe0 )); then more=2 lowest=0x800 code=$(( BYTE & 15 ))
        elif (( BYTE >= 0xc0 )); then more=1 lowest=0x80 code=$(( BYTE & 31 ))
        elif (( BYTE >= 0x80 )); then code=-1
        fi
        for (( i = 1; i <= more; i++ )); do
            byte "${text:at+i:1}"
            if (( BYTE < 0x80 || BYTE > 0xbf )); then code=-1; break; fi
            code=$(( code << 6 | BYTE & 63 ))
        done
        if (( code < lowest || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff) )); then
            CHARS+=($'\xef\xbf\xbd') CODES+=(65533) more=0
        else
            CHARS+=("${text:at:more+1}") CODES+=("$code")
        fi
        at=$(( at + more + 1 ))
    done
}

json() { # TEXT: as a JSON string into JSON
    local text=${1//\\/\\\\} i char
    text=${text//\"/\\\"}
    if [[ $text == *[!\ -~]* ]]; then
        decode "$text"
        text=
        for i in "${!CHARS[@]}"; do
            char=${CHARS[i]}
            if (( CODES[i] < 32 || CODES[i] == 127 )); then printf -v char '\\u%04x' "${CODES[i]}"; fi
            text+=$char
        done
    fi
    JSON="\"$text\""
}

cleaned() { # TEXT: into CLEANED as the service takes a host name: no control characters, at most 253 characters
    local i
    CLEANED=
    decode "$1"
    for (( i = 0; i < ${#CHARS[@]} && i < 253; i++ )); do
        if (( CODES[i] < 32 || (CODES[i] >= 127 && CODES[i] < 160) )); then CLEANED+=_; else CLEANED+=${CHARS[i]}; fi
    done
}

encode() { # TEXT: into ENCODED, fit for a file name: letters, digits, _ - and %XX
    local text=$1 i char
    ENCODED=
    for (( i = 0; i < ${#text}; i++ )); do
        char=${text:i:1}
        if [[ $char != [a-zA-Z0-9_-] ]]; then
            byte "$char"
            printf -v char '%%%02X' "$BYTE"
        fi
        ENCODED+=$char
    done
}

decoded() { # ENCODED TEXT: into DECODED
    printf -v DECODED '%b' "${1//%/\\x}"
}

add() { # KEY JSON-VALUE
    EVIDENCE+="${EVIDENCE:+, }\"$1\": $2"
}

add_text() { # KEY TEXT; what is not known is not sent
    if [[ $2 ]]; then
        json "$2"
        add "$1" "$JSON"
    fi
}

tenths() { # NUMBER: of tenths, into TENTHS as a decimal
    TENTHS="$(( $1 / 10 )).$(( $1 % 10 ))"
}

# ---------------------------------------------------------------- configuration

set_path() { # What was given comes first. That of cron often lacks the sbin folders, where some keep ss.
    local folder
    if [[ ":${PATH:-/bin}:" == *:/usr/bin:* || ":${PATH:-/bin}:" == *:/bin:* ]]; then
        for folder in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
            if [[ ":${PATH:-}:" != *":$folder:"* ]]; then PATH=${PATH:+$PATH:}$folder; fi
        done
    fi
    export PATH
}

whole_number() { # NAME VALUE LOWEST HIGHEST
    if [[ ! $2 =~ ^(0|[1-9][0-9]{0,4})$ ]] || (( $2 < $3 || $2 > $4 )); then
        misconfigured "$1 must be a whole number from $3 to $4"
    fi
}

read_options() {
    local option
    for option in "$@"; do
        case $option in
            --dry-run) DRY_RUN=1 ;;
            --no-wait) NO_WAIT=1 ;;
            --help | -h) usage; exit 0 ;;
            --version) printf 'openremedy-monitor %s\n' "$VERSION"; exit 0 ;;
            *) misconfigured "unknown option $option; --help names all" ;;
        esac
    done
}

read_thresholds() {
    DISK_THRESHOLD=${DISK_THRESHOLD:-90}
    CPU_THRESHOLD=${CPU_THRESHOLD:-90}
    MEM_THRESHOLD=${MEM_THRESHOLD:-90}
    JITTER=${OREMEDY_JITTER:-20}
    LARGEST_SECONDS=${OREMEDY_LARGEST_SECONDS:-5}
    PROC=${OREMEDY_PROC:-/proc}
    whole_number DISK_THRESHOLD "$DISK_THRESHOLD" 1 100
    whole_number CPU_THRESHOLD "$CPU_THRESHOLD" 1 100
    whole_number MEM_THRESHOLD "$MEM_THRESHOLD" 1 100
    whole_number OREMEDY_JITTER "$JITTER" 0 100
    whole_number OREMEDY_LARGEST_SECONDS "$LARGEST_SECONDS" 0 30
}

read_lists() {
    local word
    SERVICES=() PORTS=()
    split "${CHECK_SERVICES:-}"
    for word in ${WORDS[@]+"${WORDS[@]}"}; do
        if [[ ! $word =~ ^[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*$ ]]; then
            misconfigured "CHECK_SERVICES: $word is not the name of a service"
        fi
        SERVICES+=("$word")
    done
    split "${CHECK_PORTS:-}"
    for word in ${WORDS[@]+"${WORDS[@]}"}; do
        if [[ ! $word =~ ^[1-9][0-9]{0,4}(:[^:]+)?$ ]] || (( ${word%%:*} > 65535 )); then
            misconfigured "CHECK_PORTS: $word is not a port (443) or a port with its service (443:nginx)"
        fi
        PORTS+=("$word")
    done
}

read_target() { # Where to, and with which secret. A dry run sends nothing and can do without.
    local unset=''
    [[ ${OREMEDY_URL:-} ]] || unset+=", OREMEDY_URL"
    [[ ${OREMEDY_TENANT:-} ]] || unset+=", OREMEDY_TENANT"
    [[ $secret_text || ${OREMEDY_SECRET_FILE:-} ]] || unset+=", the secret (OREMEDY_SECRET_FILE or OREMEDY_SECRET)"
    if [[ $unset ]] && (( DRY_RUN )); then
        log WARN "only a dry run can do without: ${unset#, }"
        return
    fi
    if [[ $unset ]]; then misconfigured "not set: ${unset#, }"; fi
    read_url
    read_secret
    if (( DRY_RUN )); then return; fi
    have curl || misconfigured "curl is not installed"
    have openssl || misconfigured "openssl is not installed"
    prepare_key
}

read_url() { # No user and password in it: they would stand in the argument list of curl.
    local url=$OREMEDY_URL host='([^][:space:]/?#@:[]+|\[[0-9a-fA-F:.]+\])(:[0-9]+)?'
    while [[ $url == */ ]]; do url=${url%/}; done
    if [[ ! $url =~ ^https?://$host(/[^[:space:]?#@]*)?$ ]]; then
        misconfigured "OREMEDY_URL must be the address of OpenRemedy alone, such as https://openremedy.example.com"
    fi
    if [[ ! $OREMEDY_TENANT =~ ^[a-z0-9]([a-z0-9-]*[a-z0-9])?$ ]]; then
        misconfigured "OREMEDY_TENANT must be the tenant's short name: small letters, digits and hyphens"
    fi
    ENDPOINT=$url/api/v1/webhooks/alerts/$OREMEDY_TENANT
}

read_secret() { # OREMEDY_SECRET first, as the service itself reads its settings
    if [[ -z $secret_text && ${OREMEDY_SECRET_FILE:-} ]]; then
        read_secret_file "$OREMEDY_SECRET_FILE"
    fi
    if [[ $secret_text == *[[:cntrl:]]* ]]; then
        misconfigured "the secret holds line ends or other control characters; it must be one line"
    fi
}

read_secret_file() { # FILE
    local mode
    if [[ ! -f $1 && ! -p $1 || ! -r $1 ]]; then
        misconfigured "OREMEDY_SECRET_FILE: $1 cannot be read"
    fi
    if mode=$(stat -L -c %a -- "$1" 2>/dev/null) && (( 8#$mode & 8#077 )); then
        log WARN "other users can read $1 (mode $mode): chmod 600 it"
    fi
    IFS= read -r -d '' secret_text 2>/dev/null <"$1" || true
    secret_text=${secret_text%$'\n'}
    secret_text=${secret_text%$'\r'}
    [[ $secret_text ]] || misconfigured "OREMEDY_SECRET_FILE: $1 is empty"
}

find_hostname() { # Into HOST
    local source name=''
    for source in given full short bash; do
        case $source in
            given) name=${OREMEDY_HOSTNAME:-} ;;
            full) name=$(bounded 5 hostname -f 2>/dev/null) ;;
            short) name=$(uname -n 2>/dev/null) ;;
            bash) name=${HOSTNAME:-} ;;
        esac
        cleaned "$name"
        HOST=$CLEANED
        if [[ $HOST == *[!\ ]* && ($source == given || $HOST != localhost*) ]]; then break; fi
    done
    if [[ $HOST != *[!\ ]* ]]; then HOST=localhost; fi
    if [[ $HOST != "$name" ]]; then log WARN "the service would refuse this host name; it is sent as $HOST"; fi
}

# ---------------------------------------------------------------- state: one file for each check that is firing

open_state_dir() {
    local home=~ # also right without HOME: then bash asks the list of users
    STATE_DIR=${OREMEDY_STATE_DIR:-}
    if [[ -z $STATE_DIR ]]; then
        if (( EUID == 0 )); then
            STATE_DIR=/var/lib/openremedy-monitor
        else
            STATE_DIR=${XDG_STATE_HOME:-$home/.local/state}/openremedy-monitor
        fi
    fi
    if (( DRY_RUN )); then return; fi
    # Better an alert without memory than none: a full or read-only disk is what we are here to tell.
    if ! mkdir -p -- "$STATE_DIR" 2>/dev/null || [[ ! -w $STATE_DIR || ! -x $STATE_DIR ]]; then
        fail "cannot write in $STATE_DIR: alerts are sent, but recoveries of this run are not remembered"
        STATE_DIR=
    fi
}

key_of() { # TYPE THING: the name of its state file into KEY
    local sum
    KEY=$1
    if [[ -z $2 ]]; then return; fi
    encode "$2"
    if (( ${#ENCODED} > 200 )); then # names of files end at 255 bytes
        sum=$(printf '%s' "$ENCODED" | cksum)
        ENCODED=${ENCODED:0:180}-${sum//[!0-9]/-}
    fi
    KEY=$1.$ENCODED
}

# The name says nearly all, so that even an empty file, all that a full disk may take, still leads to its resolve.
remember() { # THING: the check KEY fires, under the host name HOST_SENT
    [[ $STATE_DIR ]] || return
    local host
    encode "$HOST_SENT"
    host=$ENCODED
    encode "$1"
    if [[ -s $STATE_DIR/$KEY ]]; then return; fi
    printf 'host %s\nthing %s\n' "$host" "$ENCODED" 2>/dev/null >"$STATE_DIR/$KEY" || true
    [[ -e $STATE_DIR/$KEY ]] || fail "cannot write $STATE_DIR/$KEY: its recovery will not be sent"
}

forget() {
    rm -f -- "$STATE_DIR/$KEY" || fail "cannot remove $STATE_DIR/$KEY: its recovery will be sent again"
}

recall() { # KEY: into HOST_SENT and THING
    local word value
    HOST_SENT=$HOST
    decoded "${1#*.}"
    THING=$DECODED
    if [[ $1 != *.* ]]; then THING=; fi
    if [[ ! -r $STATE_DIR/$1 ]]; then return; fi
    while read -r word value; do # a line without its end was cut off and is not taken
        decoded "$value"
        case $word in
            host) HOST_SENT=$DECODED ;;
            thing) THING=$DECODED ;;
        esac
    done <"$STATE_DIR/$1"
}

# ---------------------------------------------------------------- one run at a time

take_lock() {
    local lock_fd status
    if [[ -z $STATE_DIR ]] || (( DRY_RUN )); then return; fi
    if have flock && { exec {lock_fd}>>"$STATE_DIR/lock"; } 2>/dev/null; then
        flock -n "$lock_fd" 2>/dev/null
        status=$?
        if (( status == 0 )); then return; fi
        if (( status == 1 )); then already_running; fi
        exec {lock_fd}>&- # a file system without locks
    fi
    take_lock_folder
}

take_lock_folder() { # Without flock: making a folder succeeds for one only. A run is bounded, so an old lock is stale.
    local pid='' since now
    LOCK_FOLDER=$STATE_DIR/lock.d
    if ! mkdir -- "$LOCK_FOLDER" 2>/dev/null && [[ -d $LOCK_FOLDER ]]; then
        { read -r pid <"$LOCK_FOLDER/pid"; } 2>/dev/null
        since=$(stat -c %Y -- "$LOCK_FOLDER" 2>/dev/null) || since=0
        printf -v now '%(%s)T' -1
        if [[ -d /proc/${pid:-self} ]] && (( now - since < 900 )); then already_running; fi
        mv -- "$LOCK_FOLDER" "$LOCK_FOLDER.$$" 2>/dev/null && rm -rf -- "$LOCK_FOLDER.$$"
        mkdir -- "$LOCK_FOLDER" 2>/dev/null || already_running
    fi
    trap 'rm -rf -- "$LOCK_FOLDER"' EXIT
    printf '%s\n' $$ 2>/dev/null >"$LOCK_FOLDER/pid" || true
}

already_running() {
    log WARN "another run is active; this one does nothing"
    exit 3
}

wait_a_little() { # A fleet behind one address has one cron line everywhere; this keeps it under the service's limit.
    local seconds
    if (( NO_WAIT || DRY_RUN || JITTER == 0 )); then return; fi
    seconds=$(( RANDOM % (JITTER + 1) ))
    if [[ -t 1 ]]; then log INFO "waiting $seconds s; --no-wait does not"; fi
    sleep "$seconds"
}

# ---------------------------------------------------------------- signing and sending

hex() { od -An -v -tx1 | tr -d ' \n'; }

prepare_key() { # HMAC-SHA256 (RFC 2104): the key, filled up to 64 bytes, in its two disguises
    local i
    secret_hex=$(printf '%s' "$secret_text" | hex)
    if (( ${#secret_hex} > 128 )); then
        secret_hex=$(printf '%s' "$secret_text" | openssl dgst -sha256 -binary | hex)
    fi
    while (( ${#secret_hex} < 128 )); do secret_hex+=00; done
    secret_inner='' secret_outer=''
    for (( i = 0; i < 128; i += 2 )); do
        printf -v secret_inner '%s\\x%02x' "$secret_inner" $(( 16#${secret_hex:i:2} ^ 0x36 ))
        printf -v secret_outer '%s\\x%02x' "$secret_outer" $(( 16#${secret_hex:i:2} ^ 0x5c ))
    done
    unset -v secret_text secret_hex
}

sign() { # BODY: into SIGNATURE, sha256(outer || sha256(inner || body))
    SIGNATURE=$({
        printf '%b' "$secret_outer"
        { printf '%b' "$secret_inner"; printf '%s' "$1"; } | openssl dgst -sha256 -binary
    } | openssl dgst -sha256 -binary | hex)
    [[ $SIGNATURE =~ ^[0-9a-f]{64}$ ]] || misconfigured "openssl cannot compute SHA-256 on this host"
}

post() { # BODY: one request. Into STATUS (000 without an answer), RETRY_AFTER, CODE, OUTCOME, TROUBLE, CURL_EXIT
    local reply head='' seconds=$(( END - SECONDS )) retry_after=$'\nretry-after: *([0-9]{1,5})(\n|$)'
    if (( seconds > REPLY_SECONDS )); then seconds=$REPLY_SECONDS; fi
    # -q: whatever stands in a .curlrc is not for us. Expect: some proxies never answer it.
    reply=$(printf '%s' "$1" 2>/dev/null | curl -q --silent --show-error --globoff --include \
        --connect-timeout 5 --max-time "$seconds" --user-agent "openremedy-monitor/$VERSION" \
        --header 'Expect:' --header 'Content-Type: application/json' \
        --header "X-OpenRemedy-Signature: sha256=$SIGNATURE" \
        --data-binary @- "$ENDPOINT" 2>&1 | tr -d '\000\r')
    CURL_EXIT=$?
    STATUS=000 RETRY_AFTER='' CODE='' OUTCOME='' TROUBLE=''
    if (( CURL_EXIT )); then
        TROUBLE=${reply##*curl: }
        TROUBLE=${TROUBLE%%$'\n'*}
        return
    fi
    while [[ $reply =~ ^HTTP/[0-9.]+\ ([0-9]{3}) ]]; do # several heads where a proxy or "100 Continue" speaks first
        STATUS=${BASH_REMATCH[1]}
        head=${reply%%$'\n\n'*}
        reply=${reply#"$head"}
        reply=${reply#$'\n\n'}
    done
    if [[ ${head,,} =~ $retry_after ]]; then RETRY_AFTER=${BASH_REMATCH[1]}; fi
    # Only words of this shape get into the log, so nothing that a server echoes does.
    if [[ $reply =~ \"code\":\ *\"([a-z_]+)\" ]]; then CODE=${BASH_REMATCH[1]}; fi
    if [[ $reply =~ \"outcome\":\ *\"([a-z_]+)\" ]]; then OUTCOME=${BASH_REMATCH[1]}; fi
}

judge() { # What the answer means: VERDICT accepted, again or refused; SAID in words; MAYBE when it may have been stored
    SAID="HTTP $STATUS${CODE:+ $CODE}"
    case $STATUS in
        2??) VERDICT=accepted ;;
        429 | 503) VERDICT=again ;;
        5??) VERDICT=again MAYBE=1 ;;
        3??) VERDICT=refused SAID+=", a redirect: put the address it leads to into OREMEDY_URL" ;;
        401) VERDICT=refused SAID+=": the secret or the tenant is wrong" ;;
        404 | 405) VERDICT=refused SAID+=": OREMEDY_URL does not lead to OpenRemedy" ;;
        000)
            SAID="no answer: ${TROUBLE:-curl ended with $CURL_EXIT}"
            case $CURL_EXIT in
                5 | 6 | 7 | 35) VERDICT=again ;; # it did not get as far as the request
                0 | 16 | 18 | 28 | 52 | 55 | 56 | 92) VERDICT=again MAYBE=1 ;;
                *) VERDICT=refused ;;
            esac
            ;;
        *) VERDICT=refused ;;
    esac
}

send() { # BODY WHAT: 0 accepted; 1 certainly not stored; 2 nobody knows
    local attempt=1 tries=$TRIES pause
    MAYBE=0 SAID=''
    if (( SERVER_AWAY )); then tries=1; fi # the first alert has waited for it already
    sign "$1"
    while (( SECONDS < END )); do
        post "$1"
        judge
        if [[ $VERDICT == accepted ]]; then
            SERVER_AWAY=0
            accepted "$2"
            return 0
        fi
        if [[ $VERDICT == refused ]]; then
            fail "$2: refused: $SAID"
            return $(( MAYBE ? 2 : 1 ))
        fi
        pause=$(( 1 << attempt ))
        if [[ $RETRY_AFTER ]]; then pause=$(( RETRY_AFTER < MAX_RETRY_AFTER ? RETRY_AFTER : MAX_RETRY_AFTER )); fi
        pause=$(( pause + RANDOM % 3 )) # others wait as well, and were told the same
        if (( attempt >= tries || SECONDS + pause >= END )); then break; fi
        log WARN "$2: $SAID; again in $pause s"
        sleep "$pause"
        attempt=$(( attempt + 1 ))
    done
    SERVER_AWAY=1
    fail "$2: not sent: ${SAID:-no time left}; the next run sends it"
    return $(( MAYBE ? 2 : 1 ))
}

accepted() { # WHAT
    SENT=$(( SENT + 1 ))
    if [[ $OUTCOME ]]; then
        log INFO "$1: accepted ($OUTCOME)"
    else
        log WARN "$1: answered $STATUS, but not as OpenRemedy does: is OREMEDY_URL right?"
    fi
}

deliver() { # STATUS TYPE THING SEVERITY SUMMARY; the evidence is in EVIDENCE, the name of the state file in KEY
    local body result what="$1 $2${3:+ $3} ($5)"
    # An episode keeps the name it began with, whatever a name server says today: it is part of the identity.
    recall "$KEY"
    json "$HOST_SENT"
    # Without occurred_at: this clock may be set back, and an alert that seems older than the last recovery would be
    # taken for a late copy. A repetition that is counted twice does no harm.
    body="{\"hostname\": $JSON, \"incident_type\": \"$2\", \"severity\": \"$4\", \"status\": \"$1\","
    body+=" \"evidence\": {$EVIDENCE}}"
    if (( DRY_RUN )); then
        printf '%s\n' "$body"
        return
    fi
    send "$body" "$what"
    result=$?
    # A firing alert whose answer got lost may have opened an incident. A resolve for nothing is ignored, but one that
    # is never sent leaves the incident open for ever.
    if [[ $1 == firing ]]; then
        if (( result != 1 )); then remember "$3"; fi
    elif (( result == 0 )); then
        forget
    fi
}

report() { # firing|ok TYPE THING SEVERITY SUMMARY; the evidence is in EVIDENCE
    key_of "$2" "$3"
    if [[ ${SEEN[$KEY]-} ]]; then return; fi # listed twice
    SEEN[$KEY]=1
    CHECKS=$(( CHECKS + 1 ))
    if [[ $1 == firing ]]; then
        FIRING=$(( FIRING + 1 ))
        deliver firing "$2" "$3" "$4" "$5"
    elif [[ $STATE_DIR && -e $STATE_DIR/$KEY ]]; then
        deliver resolved "$2" "$3" info "$5"
    fi
}

blind() { # TYPE TEXT: nothing of this type could be looked at
    BLIND[$1]=1
    fail "$1: $2"
}

# ---------------------------------------------------------------- disks

read_mounts() { # Devices and types by mount point; df alone cannot tell them from names with spaces.
    local device mount fstype
    while read -r device mount fstype _; do # the kernel writes a space as \040
        printf -v mount '%b' "$mount"
        printf -v device '%b' "$device"
        DEVICE[$mount]=$device
        FSTYPE[$mount]=$fstype
    done < <(cat -- "$PROC/mounts" 2>/dev/null)
}

list_disks() { # The output of df into DISKS; DF_EXIT is not 0 when some could not be asked
    local word exclude=()
    local columns=--output=fstype,used,avail,pcent,ipcent,target
    # df does not even touch what is excluded: other users' FUSE mounts answer "permission denied", autofs would mount.
    for word in $VIRTUAL; do exclude+=(-x "$word"); done
    DISKS=$(bounded 15 df -k "${exclude[@]}" "$columns" 2>/dev/null)
    DF_EXIT=$?
    if (( DF_EXIT == 124 || DF_EXIT == 137 )); then
        fail "disk_full: df hangs, probably at a network disk; only local disks were checked"
        DISKS=$(bounded 15 df -k -l "${exclude[@]}" "$columns" 2>/dev/null)
    elif [[ -z $DISKS ]]; then # BusyBox
        DISKS=$(bounded 15 df -P -k 2>/dev/null)
        DF_EXIT=$?
    fi
}

check_disks() {
    local line fstype avail percent inodes mount count=0
    # The mount point is last and the rest has no spaces: whatever stands in its name, it cannot be misread.
    local full='^([^ ]+) +([0-9]+|-) +(-?[0-9]+|-) +([0-9]+%|-) +([0-9]+%|-) (/.*)$'
    local posix='^.* +([0-9]+) +([0-9]+) +(-?[0-9]+) +([0-9]+)% (/.*)$'
    read_mounts
    list_disks
    while IFS= read -r line; do
        if [[ $line =~ $full ]]; then
            fstype=${BASH_REMATCH[1]} avail=${BASH_REMATCH[3]} percent=${BASH_REMATCH[4]%\%}
            inodes=${BASH_REMATCH[5]%\%} mount=${BASH_REMATCH[6]}
        elif [[ $line =~ $posix ]]; then
            avail=${BASH_REMATCH[3]} percent=${BASH_REMATCH[4]} inodes=- mount=${BASH_REMATCH[5]}
            fstype=${FSTYPE[$mount]-}
        else
            continue
        fi
        count=$(( count + 1 ))
        if [[ $percent != - ]] && ! is_virtual "$fstype" "$mount"; then
            check_disk "$mount" "$fstype" "$avail" "$percent" "$inodes"
        fi
    done < <(printf '%s\n' "$DISKS")
    if (( count == 0 )); then blind disk_full "df shows no disk"; fi
}

is_virtual() { # FSTYPE MOUNT
    [[ " ${VIRTUAL//$'\n'/ } " == *" $1 "* || ( $LAYERED == *" $1 "* && $2 != / ) ]]
}

check_disk() { # MOUNT FSTYPE AVAILABLE-KIB PERCENT INODES-PERCENT
    local state=ok severity=high worst=$4 summary="$4 % used"
    if [[ $5 != - ]]; then
        summary+=", $5 % of the inodes"
        if (( $5 > worst )); then worst=$5; fi
    fi
    if (( worst >= DISK_THRESHOLD )); then state=firing; fi
    if (( worst >= 98 )); then severity=critical; fi
    EVIDENCE=
    add disk_usage_percent "$4"
    add_text mount "$1"
    if [[ $5 != - ]]; then add inodes_used_percent "$5"; fi
    if [[ $3 != - ]]; then add free_mb $(( $3 > 0 ? $3 / 1024 : 0 )); fi
    add_text filesystem "$2"
    add_text device "${DEVICE[$1]-}"
    if [[ $state == firing ]]; then add_largest_files "$1"; fi
    report $state disk_full "$1" $severity "$summary"
}

# On a full / only the files tell which recipe fits. A walk over a whole disk may take hours, so it ends after seconds,
# runs at the lowest priority, and what was found by then is sent. Only what is large, and nobody's private files.
add_largest_files() { # MOUNT
    local entry kib list='' count=0 slow=(nice -n 19)
    if (( LARGEST_SECONDS == 0 || SECONDS - BEGUN > 30 )) || ! have find; then return; fi
    case $1/ in /home/* | /root/*) return ;; esac # a disk of people's own folders, as every Linux names them
    if have stdbuf; then slow+=(stdbuf -o0); fi # else what find has not written yet is lost when its time is up
    while IFS= read -r -d '' entry; do
        kib=${entry%% *}
        if (( kib < 102400 || count == 10 )); then break; fi # the rest only looks large: sparse, such as lastlog
        if (( kib >= 10485760 )); then kib=$(( kib / 1048576 ))G
        elif (( kib >= 1048576 )); then tenths $(( kib * 10 / 1048576 )); kib=${TENTHS}G
        else kib=$(( kib / 1024 ))M
        fi
        json "${entry#* } $kib"
        list+="${list:+, }$JSON"
        count=$(( count + 1 ))
    done < <(bounded "$LARGEST_SECONDS" "${slow[@]}" find "$1" -xdev \( -path /home -o -path /root \) -prune -o \
        -type f -size +102400k -printf '%k %p\0' 2>/dev/null | sort -z -rn 2>/dev/null)
    if [[ $list ]]; then add largest_files "[$list]"; fi
}

# ---------------------------------------------------------------- load and memory

count_cores() {
    CORES=$(nproc 2>/dev/null) || CORES=$(grep -c ^processor "$PROC/cpuinfo" 2>/dev/null)
    [[ $CORES =~ ^[1-9][0-9]*$ ]] || CORES=1
}

check_cpu() {
    local load hundredths percent state=ok severity=high
    { read -r load _ <"$PROC/loadavg"; } 2>/dev/null
    if [[ ! ${load:-} =~ ^([0-9]+)\.([0-9][0-9])$ ]]; then
        blind cpu_high "$PROC/loadavg cannot be read"
        return
    fi
    hundredths=$(( 10#${BASH_REMATCH[1]}${BASH_REMATCH[2]} ))
    count_cores
    percent=$(( hundredths * 10 / CORES )) # in tenths
    if (( percent >= CPU_THRESHOLD * 10 )); then state=firing; fi
    if (( percent >= 2000 )); then severity=critical; fi # as many wait as run; a load of one for each core is only busy
    tenths $(( percent < 1000 ? percent : 1000 ))
    EVIDENCE=
    add cpu_percent "$TENTHS"
    add load_1m "$load"
    add cores "$CORES"
    if [[ $state == firing ]]; then
        busiest_process
        add_text top_process "$TOP"
    fi
    report $state cpu_high "" $severity "load $load on $CORES cores"
}

read_ticks() { # Processor time of each process so far, into TICKS by process id, and its name into NAMES
    local file line pid
    local fields='^[^ ]+( -?[0-9]+){10} ([0-9]+) ([0-9]+) '
    TICKS=()
    for file in "$PROC"/[0-9]*/stat; do
        { IFS= read -r line <"$file"; } 2>/dev/null || continue # it has ended
        if [[ ${line##*) } =~ $fields ]]; then
            pid=${line%% *}
            TICKS[pid]=$(( BASH_REMATCH[2] + BASH_REMATCH[3] ))
            line=${line%)*}
            NAMES[pid]=${line#*(}
        fi
    done
}

busiest_process() { # Into TOP: who used most in one second. What ps calls %CPU is the average since the process began.
    local pid used most=0
    local -a before=()
    TOP='' NAMES=()
    read_ticks
    for pid in "${!TICKS[@]}"; do before[pid]=${TICKS[pid]}; done
    sleep 1
    read_ticks
    for pid in "${!TICKS[@]}"; do
        used=$(( TICKS[pid] - ${before[pid]-${TICKS[pid]}} ))
        if (( used > most && pid != $$ )); then most=$used TOP=${NAMES[pid]}; fi
    done
}

largest_process() { # Into TOP: who holds most memory
    local folder pages most=0
    TOP=''
    for folder in "$PROC"/[0-9]*; do
        { read -r _ pages _ <"$folder/statm"; } 2>/dev/null || continue
        if (( pages > most )) && { IFS= read -r TOP <"$folder/comm"; } 2>/dev/null; then most=$pages; fi
    done
}

check_memory() {
    local name value total='' available='' free=0 cached=0 buffers=0 swap_total=0 swap_free=0
    local used percent state=ok severity=high
    while read -r name value _; do
        case $name in
            MemTotal:) total=$value ;;
            MemAvailable:) available=$value ;;
            MemFree:) free=$value ;;
            Buffers:) buffers=$value ;;
            Cached:) cached=$value ;;
            SwapTotal:) swap_total=$value ;;
            SwapFree:) swap_free=$value ;;
        esac
    done < <(cat -- "$PROC/meminfo" 2>/dev/null)
    available=${available:-$(( free + buffers + cached ))} # kernels before 3.14 do not tell
    if [[ ! $total =~ ^[1-9][0-9]*$ || ! $available =~ ^[0-9]+$ ]]; then
        blind memory_high "$PROC/meminfo cannot be read"
        return
    fi
    used=$(( total > available ? total - available : 0 ))
    percent=$(( used * 1000 / total )) # in tenths
    if (( percent >= MEM_THRESHOLD * 10 )); then state=firing; fi
    if (( percent >= 980 )); then severity=critical; fi
    tenths $percent
    EVIDENCE=
    add memory_percent "$TENTHS"
    add total_mb $(( total / 1024 ))
    add used_mb $(( used / 1024 ))
    if [[ $state == firing ]]; then
        largest_process
        add_text top_process "$TOP"
    fi
    if (( swap_total > 0 )); then add swap_percent $(( (swap_total - swap_free) * 100 / swap_total )); fi
    tenths $percent
    report $state memory_high "" $severity "$TENTHS % used"
}

# ---------------------------------------------------------------- services

check_services() {
    local name
    SYSTEMD=1
    for name in ${SERVICES[@]+"${SERVICES[@]}"}; do
        service_state "$name"
        if [[ -z $SERVICE_STATE ]]; then
            blind service_down "systemctl does not answer"
            return # nor will it for the others, and each would take its time
        fi
        EVIDENCE=
        add_text service_name "$name"
        if [[ $SERVICE_STATE == active ]]; then
            add service_active true
            report ok service_down "$name" info "$SERVICE_STATE"
        else
            add service_active false
            add_service_error "$name"
            report firing service_down "$name" critical "$SERVICE_STATE"
        fi
    done
}

service_state() { # NAME: into SERVICE_STATE, active or what else it is; empty when nobody knows
    local status
    SERVICE_STATE=
    if (( SYSTEMD )) && have systemctl; then
        SERVICE_STATE=$(bounded 10 systemctl is-active "$1" 2>/dev/null)
        status=$?
        if (( status == 0 )); then SERVICE_STATE=active; fi # also while it reloads
        if (( status == 3 )); then SERVICE_STATE=${SERVICE_STATE:-inactive}; fi
        # Where systemd does not run, systemctl has nothing to say. Where it does, silence is a trouble of its own.
        if [[ -d /run/systemd/system || ($SERVICE_STATE && $SERVICE_STATE != unknown) ]]; then return; fi
    fi
    if (( SYSTEMD )); then
        SYSTEMD=0
        log INFO "systemd does not run here: services are looked up in /etc/init.d and among the names of processes"
    fi
    if runs_without_systemd "${1%.service}"; then SERVICE_STATE=active; else SERVICE_STATE="not running"; fi
}

runs_without_systemd() { # NAME
    local file name
    # Only a "yes" of an init script counts: many know no "status", and each fails in its own way.
    if [[ -x /etc/init.d/$1 ]] && bounded 10 "/etc/init.d/$1" status >/dev/null 2>&1 </dev/null; then return 0; fi
    for file in "$PROC"/[0-9]*/comm; do
        { IFS= read -r name <"$file"; } 2>/dev/null || continue
        if [[ $name == "${1:0:15}" ]]; then return 0; fi # the kernel keeps 15 characters
    done
    return 1
}

add_service_error() { # NAME: why, as systemd has it. Not from the journal: its lines may hold what must stay here.
    local name value active='' sub='' result='' loaded='' how=0 code=''
    local asked=LoadState,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus
    if (( ! SYSTEMD )); then return; fi
    while IFS='=' read -r name value; do
        case $name in
            LoadState) loaded=$value ;;
            ActiveState) active=$value ;;
            SubState) sub=$value ;;
            Result) result=$value ;;
            ExecMainCode) how=$value ;;
            ExecMainStatus) code=$value ;;
        esac
    done < <(bounded 10 systemctl show -p "$asked" "$1" 2>/dev/null)
    if [[ $loaded == not-found ]]; then
        add_text error "there is no unit of this name"
    elif [[ $active ]]; then
        add_text error "$active${sub:+ ($sub)}${result:+, result $result}"
    fi
    if [[ $how == [123] && $code =~ ^[0-9]{1,3}$ ]]; then # 0: it never ran; 2 and 3: ended by a signal
        add exit_code $(( how == 1 ? code : 128 + code ))
    fi
}

# ---------------------------------------------------------------- ports

check_ports() {
    local entry port service
    if (( ${#PORTS[@]} == 0 )); then return; fi
    OPEN=()
    if ! read_ss && ! read_proc_net; then
        blind port_unavailable "neither ss nor $PROC/net/tcp can tell which ports are open"
        return
    fi
    for entry in "${PORTS[@]}"; do
        port=${entry%%:*}
        service=${entry#"$port"}
        EVIDENCE=
        add port "$port"
        if [[ ${OPEN[port]-} ]]; then add port_open true; else add port_open false; fi
        add_text expected_service "${service#:}"
        if [[ ${OPEN[port]-} ]]; then
            report ok port_unavailable "$port" info "open"
        else
            report firing port_unavailable "$port" critical "nobody listens"
        fi
    done
}

read_ss() { # The first column with a port is the local address; names of processes come later and may look like one.
    local line lines
    have ss || return 1
    lines=$(bounded 10 ss -tlnp 2>/dev/null) || return 1
    while IFS= read -r line; do
        if [[ $line =~ ^[^:\(]*[\ ]([^\ ]*):([0-9]+)\  ]]; then OPEN[BASH_REMATCH[2]]=1; fi
    done < <(printf '%s\n' "$lines")
}

read_proc_net() { # The same from the kernel's own table: hexadecimal, 0A is "listen"
    local file address state found=1
    for file in "$PROC/net/tcp" "$PROC/net/tcp6"; do
        [[ -r $file ]] || continue
        found=0
        while read -r _ address _ state _; do
            if [[ $state == 0A ]]; then OPEN[16#${address##*:}]=1; fi
        done <"$file"
    done
    return $found
}

# ---------------------------------------------------------------- what nobody looks at any more

# A disk that was taken out, a service or port that is no longer listed: nothing would ever end its incident.
resolve_the_forgotten() {
    local type file key
    [[ $STATE_DIR ]] || return
    for type in $TYPES; do
        if [[ ${BLIND[$type]-} ]]; then continue; fi
        for file in "$STATE_DIR/$type" "$STATE_DIR/$type".*; do
            key=${file##*/}
            if [[ ! -e $file || ${SEEN[$key]-} ]]; then continue; fi
            recall "$key"
            # df was not able to ask all of them: one that is still mounted may be as full as before.
            if [[ $type == disk_full && $DF_EXIT != 0 && ${DEVICE[$THING]+x} ]]; then continue; fi
            resolve_one "$type" "$key"
        done
    done
}

resolve_one() { # TYPE KEY; what it is about is in THING
    KEY=$2
    EVIDENCE=
    case $1 in
        disk_full) add_text mount "$THING" ;;
        service_down) add_text service_name "$THING" ;;
        port_unavailable) if [[ $THING =~ ^[1-9][0-9]*$ ]]; then add port "$THING"; fi ;;
    esac
    deliver resolved "$1" "$THING" info "no longer there or no longer checked"
}

# ---------------------------------------------------------------- the run

main() {
    secret_text=${OREMEDY_SECRET:-}
    unset -v OREMEDY_SECRET
    if (( BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 402 )); then misconfigured "needs bash 4.2 or newer"; fi
    umask 077
    export LC_ALL=C
    set_path
    read_options "$@"
    read_thresholds
    read_lists
    read_target
    find_hostname
    open_state_dir
    take_lock
    wait_a_little
    BEGUN=$SECONDS
    END=$(( SECONDS + RUN_SECONDS ))
    check_services
    check_ports
    check_disks
    check_memory
    check_cpu
    resolve_the_forgotten
    log INFO "checked $CHECKS: $FIRING firing; $SENT sent, $FAILED failed"
    if (( FAILED )); then exit 1; fi
}

main "$@"
