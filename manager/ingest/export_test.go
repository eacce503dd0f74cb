package ingest

import "time"

// LongestTurn is for tests.
const LongestTurn = longestTurn

// Turns makes room for so many large messages at once, lent for so long, before the first agent connects.
func (s *Server) Turns(n int64, longest time.Duration) { s.turns = newTurns(n*turnRoom, longest) }

// Room tells whether there is room for so many large messages.
func (s *Server) Room(n int64) bool {
	if !s.turns.room.TryAcquire(n * turnRoom) {
		return false
	}
	s.turns.room.Release(n * turnRoom)
	return true
}

// TellTurns tells those who wait that they do, now.
func (s *Server) TellTurns() { s.tellTurns() }

// InTurn counts the agents that wait for their turn.
func (s *Server) InTurn() (waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.sessions {
		if c.turn.waiting.Load() {
			waiting++
		}
	}
	return waiting
}
