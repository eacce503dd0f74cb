package contract

import "time"

// Headers of messages in the log. Names beginning with ce- are CloudEvents 1.0
// in binary mode.
const (
	HeaderID          = "ce-id"
	HeaderSource      = "ce-source"
	HeaderSpecVersion = "ce-specversion"
	HeaderType        = "ce-type"
	HeaderTime        = "ce-time"
	HeaderSubject     = "ce-subject"
	HeaderDataSchema  = "ce-dataschema"
	HeaderContentType = "content-type"
	// HeaderTraceParent is W3C trace context.
	HeaderTraceParent = "traceparent"
	// HeaderCommand is the id of the command that an event comes from.
	HeaderCommand = "cetrus-command"
	// HeaderCommandDigest tells what the command asked for, as its owner digests it.
	HeaderCommandDigest = "cetrus-command-digest"
	// HeaderActor names who gave the command.
	HeaderActor = "cetrus-actor"
	// HeaderOrigin is from where it was given, sealed under the key of whose command it is.
	HeaderOrigin = "cetrus-origin"
	// HeaderBuffer is the random id of the Manager's buffer, born with it.
	HeaderBuffer = "cetrus-buffer"
	// HeaderBufferPosition is the sequence number in that buffer of the last
	// message whose data this one holds: small neighbours travel together.
	HeaderBufferPosition = "cetrus-buffer-position"
)

// Values of the headers above.
const (
	SpecVersion         = "1.0"
	ContentTypeProtobuf = "application/protobuf"
	// AgentBatchType is the CloudEvents type of usagev1.AgentBatch.
	AgentBatchType = "cetrus.agent.batch.v1"
)

// Limits that both ends keep.
const (
	// MaxFrameRecords is the greatest number of records in a frame.
	MaxFrameRecords = 1000
	// MaxFrameBytes is the greatest size of a serialized frame.
	MaxFrameBytes = 512 << 10
	// MaxBatchBytes is the greatest size of a serialized AgentBatch.
	MaxBatchBytes = 4 << 20
	// ManagerPort is where a Manager listens for agents.
	ManagerPort = 10041
	// ClockStep is the smallest jump of the wall clock that makes a new anchor
	// at once.
	ClockStep = 2 * time.Second
	// QuarterHour is the cell in which durations are added up.
	QuarterHour = 15 * time.Minute
)

// Reasons that a Manager refuses a frame or an agent for, and that readers
// quarantine for.
const (
	ReasonMalformed       = "MALFORMED"
	ReasonUnknownVersion  = "UNKNOWN_VERSION"
	ReasonTooLarge        = "TOO_LARGE"
	ReasonBrokenChain     = "BROKEN_CHAIN"
	ReasonConflict        = "TWO_CONTENTS"
	ReasonForeignAccount  = "FOREIGN_ACCOUNT"
	ReasonForeignManager  = "FOREIGN_MANAGER"
	ReasonClockOutOfRange = "CLOCK_OUT_OF_RANGE"
	ReasonUnknownAnchor   = "UNKNOWN_ANCHOR"
	ReasonNoHello         = "NO_HELLO"
	ReasonCopied          = "COPIED"
	ReasonForeignAgent    = "FOREIGN_AGENT"
	ReasonNoCertificate   = "NO_CERTIFICATE"
)
