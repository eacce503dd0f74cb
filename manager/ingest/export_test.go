package ingest

// Turns makes room for so many large messages at once, before the first agent connects.
func (s *Server) Turns(n int64) { s.turns = newTurns(n*turnRoom, longestTurn) }

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
