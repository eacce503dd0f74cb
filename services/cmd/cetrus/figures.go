package main

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/telemetry"
	"github.com/cetrus/cetrus/services/platform/tlsfiles"
)

const scope = "github.com/cetrus/cetrus/services/cmd/cetrus"

// measureNATS tells how a NATS server is doing, until the registration is undone.
func measureNATS(server *natsserver.Server) (metric.Registration, error) {
	gauges := telemetry.NewGauges(scope)
	ready := gauges.Gauge("cetrus.nats.ready", "{server}", "1 while the server has all that it has to have, and takes what comes.")
	servers := gauges.Gauge("cetrus.nats.servers", "{server}", "Servers of the cluster that this one sees, itself among them.")
	connections := gauges.Gauge("cetrus.nats.connections", "{connection}", "Connections of parts of the platform and of Managers.")
	stored := gauges.Gauge("cetrus.nats.stored", "By", "What is in the server's files.")
	limit := gauges.Gauge("cetrus.nats.stored.limit", "By", "What may be in them at most: then the log takes nothing more.")
	messages := gauges.Gauge("cetrus.nats.stream.messages", "{message}", "Messages of a stream, as its leader tells.")
	size := gauges.Gauge("cetrus.nats.stream.size", "By", "Size of a stream, as its leader tells.")
	copies := gauges.Gauge("cetrus.nats.stream.copies", "{copy}", "Servers that have all of a stream, as its leader tells.")
	replicas := gauges.Gauge("cetrus.nats.stream.replicas", "{copy}", "Servers that are to have all of a stream.")
	return gauges.Look(func(_ context.Context, o metric.Observer) error {
		figures, err := server.Figures()
		if err != nil {
			return err
		}
		isReady := int64(0)
		if figures.Ready {
			isReady = 1
		}
		o.ObserveInt64(ready, isReady)
		o.ObserveInt64(servers, int64(figures.Servers))
		o.ObserveInt64(connections, int64(figures.Connections))
		o.ObserveInt64(stored, figures.StoredBytes)
		o.ObserveInt64(limit, figures.StoreLimitBytes)
		for _, stream := range figures.Streams {
			of := metric.WithAttributes(attribute.String("stream", stream.Name))
			o.ObserveInt64(messages, stream.Messages, of)
			o.ObserveInt64(size, stream.Bytes, of)
			o.ObserveInt64(copies, int64(stream.Copies), of)
			o.ObserveInt64(replicas, int64(stream.Replicas), of)
		}
		return nil
	})
}

// measureCertificates tells until when those in use are valid, until the registration is undone.
func (e encryption) measureCertificates() (metric.Registration, error) {
	gauges := telemetry.NewGauges(scope)
	end := gauges.Gauge("cetrus.tls.not_after", "s", "When the certificate in use ends, in seconds since 1970.")
	return gauges.Look(func(_ context.Context, o metric.Observer) error {
		for of, files := range map[string]*tlsfiles.Files{"parts": e.parts, "people": e.people} {
			if files != nil {
				o.ObserveInt64(end, files.NotAfter().Unix(), metric.WithAttributes(attribute.String("certificate", of)))
			}
		}
		return nil
	})
}
