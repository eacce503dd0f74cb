# Does what the entry of the official image does, as far as tests and the chart use it.
set -eu
[ "$(id -u)" -ne 0 ] || { echo "run this as another user than root" >&2; exit 1; }
# A pod's fsGroup opens what it finds in a volume to its group, which the server does not put up with.
[ ! -d "$PGDATA" ] || chmod 0700 "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE"); fi
	: "${POSTGRES_PASSWORD:?give POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE}"
	user=${POSTGRES_USER:-postgres}
	echo "$POSTGRES_PASSWORD" >"/tmp/password"
	# shellcheck disable=SC2086 # several arguments
	initdb --pgdata="$PGDATA" --username="$user" --pwfile=/tmp/password ${POSTGRES_INITDB_ARGS:-}
	rm /tmp/password
	echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
	if [ "${POSTGRES_DB:-$user}" != postgres ]; then
		pg_ctl --pgdata="$PGDATA" --wait --options="-c listen_addresses= -c unix_socket_directories=/tmp" start
		createdb --host=/tmp --username="$user" --maintenance-db=postgres "${POSTGRES_DB:-$user}"
		pg_ctl --pgdata="$PGDATA" --wait --mode=fast stop
	fi
fi
[ "${1:-}" != postgres ] || shift
exec postgres -c listen_addresses=* "$@"
