package charts

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// A moment is what Prometheus has seen by a time, a sample a minute, and whether an alert is told then. NS stands for
// the labels of the release.
type moment struct {
	seen string
	at   time.Duration
	told []string // the labels that tell one of it from another, sorted; nil: it is not told
}

const (
	minutes = time.Minute
	once    = "" // there is one of it, without labels
)

// Each alert is told when what it is for has been so for long enough, and not before, nor of what is well or of another
// release.
var moments = map[string][]moment{
	"CetrusManagerLostData": {
		{`cetrus_metering_managers_alarms{NS, alarm="BUFFER_DAMAGED"} 0 0 1 1`, 2 * minutes, []string{`alarm="BUFFER_DAMAGED"`}},
		{`cetrus_metering_managers_alarms{NS, alarm="DISK_FULL"} 1x5`, 5 * minutes, nil},
		{`cetrus_metering_managers_alarms{namespace="another", alarm="BUFFER_DAMAGED"} 1x5`, 5 * minutes, nil},
	},
	"CetrusRecordsMissing": {
		{`cetrus_metering_records_missing{NS} 0x1440 5x70`, 1510 * minutes, []string{once}},
		{`cetrus_metering_records_missing{NS} 0x1440 5x30`, 1470 * minutes, nil}, // not for an hour yet
		{`cetrus_metering_records_missing{NS} 5x1510`, 1510 * minutes, nil},      // nothing can fill it, and it was told
	},
	"CetrusRecordsSetAside": {
		{`cetrus_agentlog_quarantined_total{NS, reason="MALFORMED"} 0 0 3 3`, 3 * minutes, []string{`reason="MALFORMED"`}},
		{`cetrus_agentlog_quarantined_total{NS, reason="MALFORMED"} 3x100`, 90 * minutes, nil},
	},
	"CetrusQuarantineFull": {
		{`cetrus_agentlog_quarantine_overflowed_total{NS} 0 0 1 1`, 3 * minutes, []string{once}},
		{`cetrus_agentlog_quarantine_overflowed_total{NS} 7x100`, 90 * minutes, nil},
	},
	"CetrusEventsPoisoned": {
		{`cetrus_reactor_events_total{NS, reactor="identity-mail", outcome="poisoned"} 0 0 1 1`, 3 * minutes, []string{`reactor="identity-mail"`}},
		{`cetrus_reactor_events_total{NS, reactor="identity-mail", outcome="done"} 0+1x10`, 9 * minutes, nil},
	},
	"CetrusLogUnavailable": {
		{`cetrus_nats_ready{NS, pod="nats-0"} 1 1 0x5
cetrus_nats_ready{NS, pod="nats-1"} 1 1 0x5`, 5 * minutes, []string{once}},
		{`cetrus_nats_ready{namespace="another", pod="nats-0"} 1x9`, 5 * minutes, []string{once}}, // nobody tells
		{`cetrus_nats_ready{NS, pod="nats-0"} 0x9
cetrus_nats_ready{NS, pod="nats-1"} 1x9`, 5 * minutes, nil},
	},
	"CetrusLogCopyMissing": {
		{`cetrus_nats_stream_copies{NS, pod="nats-0", stream="AGENT"} 3 3 2x20
cetrus_nats_stream_replicas{NS, pod="nats-0", stream="AGENT"} 3x30`, 15 * minutes, []string{`stream="AGENT"`}},
		{`cetrus_nats_stream_copies{NS, pod="nats-0", stream="AGENT"} 3 3 2x20
cetrus_nats_stream_replicas{NS, pod="nats-0", stream="AGENT"} 3x30`, 9 * minutes, nil},
		// What a former leader told last counts until it is forgotten.
		{`cetrus_nats_stream_copies{NS, pod="nats-0", stream="AGENT"} 3 3 2 2 2
cetrus_nats_stream_copies{NS, pod="nats-1", stream="AGENT"} _ _ _ _ _ 3x20
cetrus_nats_stream_replicas{NS, pod="nats-1", stream="AGENT"} 3x30`, 15 * minutes, nil},
	},
	"CetrusLogNearlyFull": {
		{`cetrus_nats_stored_bytes{NS, pod="nats-0"} 900x20
cetrus_nats_stored_limit_bytes{NS, pod="nats-0"} 1000x20
cetrus_nats_stored_bytes{NS, pod="nats-1"} 100x20
cetrus_nats_stored_limit_bytes{NS, pod="nats-1"} 1000x20`, 11 * minutes, []string{`pod="nats-0"`}},
		{`cetrus_nats_stored_bytes{NS, pod="nats-0"} 800x20
cetrus_nats_stored_limit_bytes{NS, pod="nats-0"} 1000x20`, 11 * minutes, nil},
	},
	"CetrusArchiveBehind": {
		{`cetrus_archive_behind_seconds{NS} 10000+60x60`, 45 * minutes, []string{once}},
		{`cetrus_archive_behind_seconds{NS} 0 1200 2400 3600 0 1200 2400 3600`, 7 * minutes, nil},
	},
	"CetrusArchiveMissing": {
		{`cetrus_archive_behind_seconds{NS} 0x5`, 25 * minutes, []string{`namespace="` + Namespace + `"`}}, // its pod has gone
		{`cetrus_archive_behind_seconds{namespace="another"} 0x30`, 15 * minutes, []string{`namespace="` + Namespace + `"`}},
		{`cetrus_archive_behind_seconds{NS} 0x30`, 25 * minutes, nil},
		{`cetrus_archive_behind_seconds{NS} 0x5 _x12 0x20`, 35 * minutes, nil}, // on another node by now
	},
	"CetrusBackupWatchMissing": {
		{`cetrus_backup_late_seconds{NS} 0x5`, 25 * minutes, []string{`namespace="` + Namespace + `"`}},
		{`cetrus_backup_late_seconds{NS} 3600x30`, 25 * minutes, nil}, // late is told otherwise
	},
	"CetrusBackupLate": {
		{`cetrus_backup_late_seconds{NS} 0x10 60+60x40`, 40 * minutes, []string{once}},
		{`cetrus_backup_late_seconds{NS} 0x60`, 40 * minutes, nil},
	},
	"CetrusPartRestarts": {
		// Half a minute between waits of five, as it is after a while: most lives are seen once, or not at all.
		{`up{NS, pod="cetrus-identity-5c9f-x", container="identity"} 1x40 0 0 1 0 0 0 0 0 1 0 0 0 0 0 0 0 0 0 0 0 1
up{NS, pod="cetrus-identity-5c9f-y", container="identity"} 1x70`, 60 * minutes, []string{`pod="cetrus-identity-5c9f-x"`}},
		{`up{NS, pod="cetrus-nats-0", container="nats"} 0x20`, 11 * minutes, []string{`pod="cetrus-nats-0"`}}, // has never run
		// Long lives between such waits.
		{`up{NS, pod="cetrus-archive-7d-z"} 1x5 0 0 0 0 0 1 1 1 1 1 0 0 0 0 0 1 1 1 1 1 0 0 0 0 0 1 1 1 1 1 0 0 0 0 0 1 1 1 1 1`, 40 * minutes, []string{`pod="cetrus-archive-7d-z"`}},
		// Upgraded: the pod before is gone, the new one was asked before it listened.
		{`up{NS, pod="cetrus-nats-0", instance="10.0.0.1:9464"} 1 1 1 0 0 0 0 _x40
up{NS, pod="cetrus-nats-0", instance="10.0.0.2:9464"} _x8 0 0 1x40`, 30 * minutes, nil},
		{`up{NS, pod="cetrus-gateway-6f-k"} 1x30 0 1x9 0 1x20`, 50 * minutes, nil}, // twice is no loop
		{`up{NS, pod="cetrus-postgres-0"} 0x40
up{NS, pod="another-nats-0"} 0x40
up{namespace="another", pod="cetrus-nats-0"} 0x40`, 40 * minutes, nil},
	},
	"CetrusCertificateEnds": { // time begins at 1970 here, and so the certificate ends on the third day
		{`cetrus_tls_not_after_seconds{NS, pod="metering-0", certificate="parts"} 259200x70
cetrus_tls_not_after_seconds{NS, pod="gateway-0", certificate="people"} 9000000x70`, 61 * minutes, []string{`certificate="parts" pod="metering-0"`}},
		{`cetrus_tls_not_after_seconds{NS, pod="metering-0", certificate="parts"} 259200x30 9000000x40`, 65 * minutes, nil},
	},
	"CetrusMeteringMissing": {
		{`cetrus_projection_position{NS, projection="another"} 1+1x9`, 6 * minutes, []string{`namespace="` + Namespace + `" projection="usage"`}},
		{`cetrus_projection_position{NS, projection="usage"} 1+1x9`, 6 * minutes, nil},
	},
	"CetrusProjectionStopped": {
		{`cetrus_projection_pending{NS, projection="usage"} 5x30
cetrus_projection_messages_total{NS, projection="usage"} 100x30`, 22 * minutes, []string{`projection="usage"`}},
		{`cetrus_projection_pending{NS, projection="usage"} 5x30
cetrus_projection_messages_total{NS, projection="usage"} 100+1x30`, 22 * minutes, nil},
		{`cetrus_projection_pending{NS, projection="usage"} 0x30
cetrus_projection_messages_total{NS, projection="usage"} 100x30`, 22 * minutes, nil},
	},
	"CetrusProjectionLagging": {
		{`cetrus_projection_lag_seconds{NS, projection="usage"} 90x20`, 11 * minutes, []string{`projection="usage"`}},
		{`cetrus_projection_lag_seconds{NS, projection="usage"} 90x5 1x15`, 11 * minutes, nil},
	},
	"CetrusProjectionInterrupted": {
		{`cetrus_projection_failures_total{NS, projection="usage"} 0+2x40`, 38 * minutes, []string{`projection="usage"`}},
		{`cetrus_projection_failures_total{NS, projection="usage"} 0x10 3x30`, 38 * minutes, nil},
	},
	"CetrusNotFresh": {
		{`cetrus_metering_freshness_seconds_bucket{NS, le="30"} 0+1x40
cetrus_metering_freshness_seconds_bucket{NS, le="60"} 0+2x40
cetrus_metering_freshness_seconds_bucket{NS, le="+Inf"} 0+2x40`, 30 * minutes, []string{once}},
		{`cetrus_metering_freshness_seconds_bucket{NS, le="30"} 0+2x40
cetrus_metering_freshness_seconds_bucket{NS, le="60"} 0+2x40
cetrus_metering_freshness_seconds_bucket{NS, le="+Inf"} 0+2x40`, 30 * minutes, nil},
	},
	"CetrusManagersAway": {
		{`cetrus_metering_managers{NS, connected="false"} 2x70`, 61 * minutes, []string{once}},
		{`cetrus_metering_managers{NS, connected="true"} 2x70
cetrus_metering_managers{NS, connected="false"} 2x30 0x40`, 61 * minutes, nil},
	},
	"CetrusManagersBacklog": {
		{`cetrus_metering_managers_backlog{NS} 5000x40`, 35 * minutes, []string{once}},
		{`cetrus_metering_managers_backlog{NS} 5000x20 0 5000x20`, 35 * minutes, nil},
	},
	"CetrusManagerNeedsAttention": {
		{`cetrus_metering_managers_alarms{NS, alarm="DISK_FULL"} 1x20`, 16 * minutes, []string{`alarm="DISK_FULL"`}},
		{`cetrus_metering_managers_alarms{NS, alarm="BUFFER_DAMAGED"} 1x20`, 16 * minutes, nil},
	},
	"CetrusAgentsUnwell": {
		{`cetrus_metering_agents_conditions{NS, condition="policy"} 6x40
cetrus_metering_agents{NS} 100x40`, 31 * minutes, []string{`condition="policy"`}},
		{`cetrus_metering_agents_conditions{NS, condition="policy"} 5x40
cetrus_metering_agents{NS} 100x40`, 31 * minutes, nil},
		{`cetrus_metering_agents_conditions{NS, condition="silent"} 90x40
cetrus_metering_agents{NS} 100x40`, 31 * minutes, nil},
	},
	"CetrusAPIErrors": {
		{`http_server_request_duration_seconds_count{NS, http_response_status_code="500"} 0+10x20
http_server_request_duration_seconds_count{NS, http_response_status_code="200"} 0+100x20`, 16 * minutes, []string{once}},
		{`http_server_request_duration_seconds_count{NS, http_response_status_code="404"} 0+10x20
http_server_request_duration_seconds_count{NS, http_response_status_code="503"} 0+1x20
http_server_request_duration_seconds_count{NS, http_response_status_code="200"} 0+1000x20`, 16 * minutes, nil},
	},
	"CetrusReportsFail": {
		{`cetrus_metering_report_runs_total{NS, problem="no mail"} 0 0 4 5 6`, 4 * minutes, []string{`problem="no mail"`}},
		{`cetrus_metering_report_runs_total{NS, problem="none"} 0+10x9
cetrus_metering_report_runs_total{NS, problem="no mail"} 0 0 1 1`, 4 * minutes, nil},
	},
}

func TestAlertsAreToldWhenTheyShould(t *testing.T) {
	tried := make(map[string]bool)
	for _, group := range alerts(t, everyAlert) {
		for _, rule := range group.Rules {
			tried[rule.Alert] = true
			told := 0
			for _, m := range moments[rule.Alert] {
				if m.told != nil {
					told++
				}
				if got := tell(t, rule, m); !slices.Equal(got, m.told) {
					t.Errorf("%s is told of %q, not of %q, at %v of\n%s", rule.Alert, got, m.told, m.at, m.seen)
				}
			}
			if told == 0 || told == len(moments[rule.Alert]) {
				t.Errorf("of %s there is no moment at which it is told, or none at which it is not", rule.Alert)
			}
		}
	}
	for name := range moments {
		if !tried[name] {
			t.Errorf("there is no alert %s", name)
		}
	}
}

// storage holds what was seen.
func (m moment) storage(t *testing.T) storage.Queryable {
	t.Helper()
	var all []promql.Series
	for line := range strings.Lines(strings.ReplaceAll(m.seen, "NS", `namespace="`+Namespace+`"`)) {
		of, values, err := parser.NewParser(parser.Options{}).ParseSeriesDesc(strings.TrimSpace(line))
		if err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		series := promql.Series{Metric: of}
		for minute, value := range values {
			if !value.Omitted {
				series.Floats = append(series.Floats, promql.FPoint{T: (time.Duration(minute) * time.Minute).Milliseconds(), F: value.Value})
			}
		}
		all = append(all, series)
	}
	return &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			found := &found{}
			for _, series := range all {
				if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(series.Metric.Get(m.Name)) }) {
					found.series = append(found.series, series)
				}
			}
			return found
		},
	}}
}

// found is the series that a query asks for, one after the other.
type found struct {
	series []promql.Series
	next   int
}

func (f *found) Next() bool                        { f.next++; return f.next <= len(f.series) }
func (f *found) At() storage.Series                { return promql.NewStorageSeries(f.series[f.next-1]) }
func (f *found) Err() error                        { return nil }
func (f *found) Warnings() annotations.Annotations { return nil }

// tell evaluates an alert minute by minute, and gives the labels of those that are told at the moment: what its
// expression has given at each minute for as long as it has to hold.
func tell(t *testing.T, rule rulefmt.Rule, m moment) []string {
	t.Helper()
	seen, engine := m.storage(t), promql.NewEngine(promql.EngineOpts{MaxSamples: 10_000, Timeout: time.Minute, EnableAtModifier: true})
	defer func() { _ = engine.Close() }()
	var since map[string]time.Time // by labels
	began := time.Unix(0, 0)
	for minute := began; !minute.After(began.Add(m.at)); minute = minute.Add(time.Minute) {
		query, err := engine.NewInstantQuery(t.Context(), seen, nil, rule.Expr, minute)
		if err != nil {
			t.Fatalf("%s: %v", rule.Alert, err)
		}
		result := query.Exec(t.Context())
		given, err := result.Vector()
		if err != nil {
			t.Fatalf("%s: %v", rule.Alert, err)
		}
		still := make(map[string]time.Time)
		for _, one := range given {
			var of []string
			one.Metric.Range(func(l labels.Label) { of = append(of, fmt.Sprintf("%s=%q", l.Name, l.Value)) })
			key := strings.Join(of, " ")
			still[key] = minute
			if before, was := since[key]; was {
				still[key] = before
			}
		}
		query.Close()
		since = still
	}
	var told []string
	for of, from := range since {
		if began.Add(m.at).Sub(from) >= time.Duration(rule.For) {
			told = append(told, of)
		}
	}
	slices.Sort(told)
	return told
}
