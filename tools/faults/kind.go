package faults

// Kind is a kind of fault.
type Kind string

// The kinds of faults.
const (
	KillAgents             Kind = "kill-agents"
	KillManager            Kind = "kill-manager"
	KillNATS               Kind = "kill-nats"
	KillMetering           Kind = "kill-metering"
	KillPostgres           Kind = "kill-postgres"
	CutAgents              Kind = "cut-agents"
	CutPlatform            Kind = "cut-platform"
	DelayAgents            Kind = "delay-agents"
	DelayPlatform          Kind = "delay-platform"
	RepeatFrame            Kind = "repeat-frame"
	ReorderFrames          Kind = "reorder-frames"
	SwallowAcknowledgement Kind = "swallow-acknowledgement"
	FillDisk               Kind = "fill-disk"
	LongOffline            Kind = "six-weeks-offline"
)

// quota is the share of each kind among a hundred faults. Every kind with a
// quota strikes at least once in a run.
var quota = map[Kind]int{
	KillAgents: 12, KillManager: 10, KillNATS: 8, KillMetering: 8, KillPostgres: 6,
	CutAgents: 10, CutPlatform: 10, DelayAgents: 5, DelayPlatform: 5,
	RepeatFrame: 8, ReorderFrames: 8, SwallowAcknowledgement: 6, FillDisk: 3, LongOffline: 1,
}
