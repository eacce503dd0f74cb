// Package telemetry sets up what a process tells about itself: logs (slog, with
// trace ids), traces and metrics (OpenTelemetry).
//
// Nothing is exported, and nothing complains, unless the standard OTEL_*
// variables ask for it; trace ids are drawn and carried on all the same, so that
// logs of one event can be found together.
package telemetry
