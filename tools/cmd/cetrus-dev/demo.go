package main

import "context"

func runOffice(ctx context.Context, s settings, p *platform, history *progress, logPath string) error {
	<-ctx.Done()
	return nil
}
func startAgent(s settings, p *platform, logPath string) (*child, error) { return nil, nil }
