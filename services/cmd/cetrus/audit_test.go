package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// auditTells checks that the audit log tells of an application's making: who, from where, what.
func (i *instance) auditTells(application any) {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), time.Minute)
	defer cancel()
	for {
		code, answer := i.do("GET", "/v1/auditEntries?type_prefix=cetrus.metering.application.", "", i.key)
		if list, _ := answer["audit_entries"].([]any); code == 200 && len(list) == 1 {
			entry := list[0].(map[string]any)
			if entry["address"] != "127.0.0.1" || !strings.HasPrefix(fmt.Sprint(entry["actor"]), "key:") || !strings.Contains(fmt.Sprint(entry["changes"]), fmt.Sprint(application)) {
				i.t.Errorf("the entry is %v", entry)
			}
			return
		}
		select {
		case <-ctx.Done():
			i.t.Errorf("the audit log does not tell of the application: %d %v", code, answer)
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}
