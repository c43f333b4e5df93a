//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// What happens is written into journals, one file for each process of the fleet and one of our own,
// by a single write before and after each act. So the auditor also knows what a process did that
// was killed.

// op is what a record says.
type op string

const (
	// By whoever enqueues.
	opOffered op = "offered" // before the call
	opAcked   op = "acked"   // the call returned no error
	opUnknown op = "unknown" // it returned an ErrOutcomeUnknown
	opRefused op = "refused" // it returned another error: nothing was enqueued

	// By handlers.
	opStarted   op = "started"
	opEnded     op = "ended"     // with success
	opFailed    op = "failed"    // with an error
	opCancelled op = "cancelled" // its context ended, and it stopped
	opDying     op = "dying"     // it is a poison's, and ends its process now

	// By the process that requeues dead letters.
	opRequeuing op = "requeuing" // before the call
	opRequeued  op = "requeued"  // what the call says of a dead letter; N: its id, Job: what it was requeued as, Text: why it was not
	opReturned  op = "returned"  // the call returned no error
	opBroke     op = "broke"     // it returned one

	// By the process that cancels jobs.
	opCancel  op = "cancel"  // before the call; N: the request, Job: its job, Key: by which it is cancelled, if not by its id
	opOutcome op = "outcome" // what the call says; Text: the state, Name: the worker that has the job; or opBroke

	// By workers.
	opPool   op = "pool"   // the id under which it locks jobs
	opFenced op = "fenced" // it was declared dead, and lives
	opSilent op = "silent" // its heartbeats were not acknowledged for so long that it cancelled jobs of queues

	// By the harness. N is the number of a process, Name is that of a process or of a fault.
	opRun       op = "run"       // what the run is; N: the seed, Count: the rate, Due: the duration, Kind: poison if there are such jobs, Text: what runs
	opSpawned   op = "spawned"   // a process was started; Count: its PID, Text: its duty
	opDied      op = "died"      // it ended; Text: how
	opKilled    op = "killed"    // a fault sent it a signal that ends it
	opFrozen    op = "frozen"    // it was stopped
	opThawed    op = "thawed"    // and continued
	opBegin     op = "begin"     // a fault begins
	opEnd       op = "end"       // and ends
	opRecovered op = "recovered" // a process works again; Text: after which fault, Due: when that had ended
	opStuck     op = "stuck"     // it did not within the time for that
	opHeld      op = "held"      // what a process that has ended had locked; Count and Ns: the jobs
	opReleased  op = "released"  // these are free again
	opLocked    op = "locked"    // they were not within the time for that; Count: how many
	opPoisoned  op = "poisoned"  // a poison killed a worker; Count: how many jobs that had locked
	opHung      op = "hung"      // Node's process lived on and did nothing, and was killed
	opDrain     op = "drain"     // no more is enqueued
	opLeft      op = "left"      // a job or a dead letter at the end of all; Name: its locked_by, Count: 1 if it has no attempt left, Text: its last_error
	opEffect    op = "effect"    // a row that an effect has written; N: the request, Run and Count: the run and its process, Ns: the follow-up
	opPending   op = "pending"   // a request to cancel a job that is left at the end of all
	opBroken    op = "broken"    // the harness itself saw what must not be
)

// noProcess is the number of what is no process of the fleet.
const noProcess = -1

// A record is a line of a journal.
type record struct {
	Op      op      `json:"op"`
	At      int64   `json:"at"`                // microseconds since 1970: one machine has one clock
	Proc    int     `json:"proc,omitempty"`    // number of the process, counted by the harness; 0: the harness itself
	N       int64   `json:"n,omitempty"`       // number of a request, or of the first of Count
	Count   int     `json:"count,omitempty"`   // if it is not 1
	Ns      []int64 `json:"ns,omitempty"`      // of a batch job: the requests that it has
	Run     int64   `json:"run,omitempty"`     // number of a run of a handler, within its process
	Job     int64   `json:"job,omitempty"`     // id
	Attempt int     `json:"attempt,omitempty"` // of a run
	Kind    kind    `json:"kind,omitempty"`
	Queue   string  `json:"queue,omitempty"`
	Key     string  `json:"key,omitempty"`
	Due     int64   `json:"due,omitempty"`  // not before this time
	Name    string  `json:"name,omitempty"` // of a process or a fault
	Text    string  `json:"text,omitempty"`
	Letter  *letter `json:"letter,omitempty"` // what is left is a dead letter
}

// letter is what a row of backfill_dlq has beside what a job's has.
type letter struct {
	ID         int64  `json:"id"`
	Reason     string `json:"reason"`
	Failures   int    `json:"failures"`
	Requeues   int    `json:"requeues,omitempty"`
	RequeuedAs int64  `json:"requeued_as,omitempty"` // the job that it is now; 0: it is none
}

func now() int64 { return time.Now().UnixMicro() }

// seconds is how long it is from one record's time to another's.
func seconds(from, to int64) float64 { return float64(to-from) / 1e6 }

// A journal appends records to a file.
type journal struct {
	file *os.File
	proc int
}

func openJournal(path string, proc int) (*journal, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a journal: %w", err)
	}
	return &journal{file, proc}, nil
}

// write appends a record. A journal that cannot be written ends the process: what it did not write
// down, nobody checks.
func (j *journal) write(r record) {
	r.Proc = j.proc
	if r.At == 0 {
		r.At = now()
	}
	line, err := json.Marshal(r)
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults: write the journal:", err)
		os.Exit(3)
	}
}

// readJournal passes all records of a file from an offset on to a function, and returns the offset
// behind the last of them. A line that has no end yet is not one.
func readJournal(path string, offset int64, each func(record)) (int64, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read a journal: %w", err)
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return 0, fmt.Errorf("read a journal: %w", err)
	}
	lines := bufio.NewReaderSize(file, 1<<16)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return offset, nil
		}
		if err != nil {
			return offset, fmt.Errorf("read a journal: %w", err)
		}
		offset += int64(len(line))
		var r record
		if err := json.Unmarshal(bytes.TrimSpace(line), &r); err != nil {
			return offset, fmt.Errorf("read %s before byte %d: %w: %q", path, offset, err, line)
		}
		each(r)
	}
}
