package faults

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults.
const (
	KillAgents             Kind = "kill-agents"
	KillManager            Kind = "kill-manager"
	KillNATS               Kind = "kill-nats"
	KillMetering           Kind = "kill-metering"
	KillPostgres           Kind = "kill-postgres"
	KillService            Kind = "kill-service"
	CutAgents              Kind = "cut-agents"
	CutPlatform            Kind = "cut-platform"
	DelayAgents            Kind = "delay-agents"
	DelayPlatform          Kind = "delay-platform"
	RepeatFrame            Kind = "repeat-frame"
	ReorderFrames          Kind = "reorder-frames"
	SwallowAcknowledgement Kind = "swallow-acknowledgement"
	FillDisk               Kind = "fill-disk"
	LongOffline            Kind = "six-weeks-offline"

	// On machines of their own.
	PartitionAgents   Kind = "partition-agents"
	PartitionManager  Kind = "partition-manager"
	PartitionNATS     Kind = "partition-nats"
	PartitionService  Kind = "partition-service"
	PartitionPostgres Kind = "partition-postgres"
	PartitionOneWay   Kind = "partition-one-way"
	LosePackets       Kind = "lose-packets"
	OvertakePackets   Kind = "overtake-packets"
	DamagePackets     Kind = "damage-packets"
	PauseManager      Kind = "pause-manager"
	PauseNATSLeader   Kind = "pause-nats-leader"
	PauseMetering     Kind = "pause-metering"
	DiskErrors        Kind = "disk-errors"
	DiskReadOnly      Kind = "disk-read-only"
	PowerLoss         Kind = "power-loss"
	PowerLossAll      Kind = "power-loss-of-all-nats"
)

// place is where a kind of fault can strike.
type place int

const (
	anywhere place = iota
	oneMachine
	ownMachines
)

// kindOf is what a run knows of a kind.
type kindOf struct {
	// quota is its share of all faults.
	quota int
	place place
	// once says that a run needs no more of it.
	once bool
}

var kinds = map[Kind]kindOf{
	KillAgents: {quota: 12}, KillManager: {quota: 10}, KillNATS: {quota: 8}, KillMetering: {quota: 8}, KillPostgres: {quota: 6},
	CutAgents: {quota: 10}, RepeatFrame: {quota: 8}, ReorderFrames: {quota: 8}, SwallowAcknowledgement: {quota: 6}, DelayAgents: {quota: 5},
	LongOffline: {quota: 1, once: true},
	CutPlatform: {quota: 10, place: oneMachine}, DelayPlatform: {quota: 5, place: oneMachine}, FillDisk: {quota: 3},
	KillService:     {quota: 5, place: ownMachines},
	PartitionAgents: {quota: 12, place: ownMachines}, PartitionManager: {quota: 10, place: ownMachines}, PartitionNATS: {quota: 8, place: ownMachines},
	PartitionService: {quota: 8, place: ownMachines}, PartitionPostgres: {quota: 6, place: ownMachines}, PartitionOneWay: {quota: 10, place: ownMachines},
	LosePackets: {quota: 12, place: ownMachines}, OvertakePackets: {quota: 12, place: ownMachines}, DamagePackets: {quota: 8, place: ownMachines},
	DiskErrors: {quota: 6, place: ownMachines}, DiskReadOnly: {quota: 4, place: ownMachines},
	PowerLoss: {quota: 14, place: ownMachines}, PowerLossAll: {quota: 3, place: ownMachines},
	PauseManager: {quota: 4, place: ownMachines}, PauseNATSLeader: {quota: 4, place: ownMachines}, PauseMetering: {quota: 4, place: ownMachines},
}

// Kinds are all of them, in their order.
func Kinds() []Kind { return slices.Sorted(maps.Keys(kinds)) }

// plan shuffles kinds by their quota: each that can strike at least once, where there are as many faults.
func plan(random *rand.Rand, faults int, can func(Kind) bool) []Kind {
	var chosen, weighted []Kind
	for _, kind := range Kinds() {
		if !can(kind) {
			continue
		}
		chosen = append(chosen, kind)
		if of := kinds[kind]; !of.once {
			weighted = append(weighted, slices.Repeat([]Kind{kind}, of.quota)...)
		}
	}
	for len(chosen) < faults {
		chosen = append(chosen, weighted[random.IntN(len(weighted))])
	}
	random.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	return chosen[:faults]
}
