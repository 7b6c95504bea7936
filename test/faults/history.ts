import { createReadStream, openSync, writeSync } from 'node:fs'
import { createInterface } from 'node:readline'

/** Milliseconds of a monotonic clock that all processes of this machine share. */
export function clock(): number {
  return Number(process.hrtime.bigint() / 1000n) / 1000
}

/** `info`: nobody can tell whether it took effect. Never counted as a failure, nor as a success. */
export type Outcome = 'ok' | 'fail' | 'info'

/** How a caller holds a lock: the guarded ways, and the negative controls. */
export type Mode =
  | 'lease'
  /** Its attempts wait for a connection first: all of the pool's are taken, and nobody knows when it stands in the queue. */
  | 'lease over narrow pool'
  | 'run'
  | 'write and release'
  | 'transaction'
  | 'pending lease'
  | 'shared lease'
  | 'shared transaction'
  | 'permits'
  | Control
export type Control = 'lease without guard' | 'check then act' | ControlOfModes
/** Readers and writers, and permits, each without a guard. */
export type ControlOfModes = 'modes without guard' | 'permits without guard'

/** How much of a lock a hold takes: 1 if it is shared, the permits of a semaphore; null: all of it. */
export type Weight = number | null

/** Names one call for ever: the worker's number, and a count. */
export type OperationId = `${number}.${number}`

interface AcquireCall {
  readonly action: 'acquire'
  readonly lock: string
  readonly mode: Mode
  readonly weight: Weight
}

/** Who reads does not know yet what, and who uses permits does not look at the counter. */
interface WriteCall extends Omit<Entry, 'seq' | 'operation' | 'value'> {
  readonly action: 'write' | 'read' | 'use'
  readonly weight: Weight
  readonly value: number | null
}

/** From when on a transaction had to be protected, and until its commit was sent. It is in force all of that time if it commits. */
export interface Stay {
  readonly from: number
  readonly until: number
}

interface Grant {
  readonly token: number
  readonly owner: string
  /** When the lease will stop being trusted; null for a hold that ends with its transaction. */
  readonly until: number | null
}

/** One line of a worker's history. `at` is of `clock`. Tokens are numbers here: they fit 2^53 until 2255. */
export type HistoryEvent = { readonly at: number; readonly operation: OperationId } & (
  | { readonly type: 'invoke'; readonly call: AcquireCall | WriteCall }
  | { readonly type: 'ok'; readonly grant?: Grant; readonly stay?: Stay | undefined }
  | { readonly type: 'fail' | 'info'; readonly error: string; readonly stay?: Stay | undefined }
  /** Of an acquire: its caller has left soon after it came, as planned. */
  | { readonly type: 'left' }
  /** Of a granted acquire: a renewal moved the end of its trust. */
  | { readonly type: 'held'; readonly until: number }
  /** Of a granted acquire: release is about to be called, or its signal has just aborted. */
  | { readonly type: 'release' | 'lost' }
  /** Of a granted acquire: downgrade is about to be called. */
  | { readonly type: 'shared' }
  /** The event loop stood still from `from`; at `at` all timers had run that had become due meanwhile. */
  | { readonly type: 'gap'; readonly from: number }
)

/** Measures for how long a transaction had to be protected. A pause at either end makes that shorter, never longer. */
export class StayWatch {
  #from: number | undefined
  #until: number | undefined

  begin(): void {
    this.#from ??= clock()
  }

  /** Before the commit is sent. */
  end(): void {
    this.#until = clock()
  }

  known(): Stay | undefined {
    return this.#until === undefined ? undefined : { from: this.#from ?? this.#until, until: this.#until }
  }
}

/** A row of the append table: one committed write. */
export interface Entry {
  /** In the order of commits, for the writes of one lock. */
  readonly seq: number
  readonly lock: string
  readonly token: number | null
  readonly owner: string | null
  readonly operation: OperationId
  readonly value: number
}

/** A row of a committed read of a counter, which was looked at twice in its transaction. */
export interface ReadEntry extends Pick<Entry, 'operation' | 'lock' | 'owner'> {
  readonly token: number
  readonly first: number
  readonly last: number
}

/** A row of a committed use of permits, and how many seats of the semaphore its transaction found free. */
export interface UseEntry extends Pick<Entry, 'operation' | 'lock' | 'owner'> {
  readonly token: number
  readonly weight: number
  readonly seats: number
}

/** One call that wanted a lock. */
export interface Wait {
  readonly operation: OperationId
  readonly worker: number
  readonly lock: string
  readonly mode: Mode
  readonly weight: Weight
  readonly invokedAt: number
  endedAt: number | null
  outcome: Outcome
}

/** What a granted call believed. */
export interface Hold extends Omit<Grant, 'until'> {
  readonly operation: OperationId
  readonly worker: number
  readonly lock: string
  readonly mode: Mode
  readonly weight: Weight
  readonly requestedAt: number
  readonly grantedAt: number
  /** When the lease stops being trusted, as told by its last renewal; null for a transaction's hold. */
  until: number | null
  releasedAt: number | null
  lostAt: number | null
  /** When it began to be shared, if it was exclusive at first. */
  sharedAt: number | null
}

/** A transaction on what a lock protects, which leaves a row: a write, a read, or a use of permits. */
export interface Write extends Omit<WriteCall, 'action'> {
  readonly action: WriteCall['action']
  readonly operation: OperationId
  readonly worker: number
  stay: Stay | undefined
  readonly invokedAt: number
  endedAt: number | null
  outcome: Outcome
  error: string | undefined
}

/** A time in which a worker's event loop did not run. */
export interface Gap {
  readonly worker: number
  readonly from: number
  readonly until: number
}

/** What all workers have written down, in the order of each one's own time. */
export interface History {
  readonly waits: Wait[]
  readonly holds: Hold[]
  readonly writes: Write[]
  readonly gaps: Gap[]
  /** Callers who left as planned. What they wanted is no operation that succeeds or fails. */
  readonly departures: Wait[]
  /** The errors of operations that failed or whose fate is unknown, and how often. */
  readonly errors: Map<string, number>
  /** When each worker wrote its last line. */
  readonly lastSeen: Map<number, number>
}

/** Writes each event before the next statement of the worker is executed, so that it survives whatever happens then. */
export class HistoryWriter {
  readonly #file: number

  constructor(path: string) {
    this.#file = openSync(path, 'a')
  }

  write(event: HistoryEvent): void {
    writeSync(this.#file, `${JSON.stringify(event)}\n`)
  }
}

export function emptyHistory(): History {
  return { waits: [], holds: [], writes: [], gaps: [], departures: [], errors: new Map(), lastSeen: new Map() }
}

/** Adds a worker's history. What was invoked and has no end, because the worker was killed, stays `info`. */
export async function readHistory(path: string, history: History): Promise<void> {
  const events = new EventReader(history)
  let torn: SyntaxError | undefined
  for await (const line of createInterface({ input: createReadStream(path) })) {
    // Only the last line of a worker that was killed can be incomplete.
    if (torn !== undefined) throw new Error(`${path} has a line that is no event`, { cause: torn })
    try {
      events.read(JSON.parse(line) as HistoryEvent)
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error
      torn = error
    }
  }
}

/** Puts the events of one worker together. */
export class EventReader {
  readonly #history: History
  readonly #waits = new Map<OperationId, Wait>()
  readonly #holds = new Map<OperationId, Hold>()
  readonly #writes = new Map<OperationId, Write>()

  constructor(history: History) {
    this.#history = history
  }

  read(event: HistoryEvent): void {
    const { at, operation } = event
    this.#history.lastSeen.set(workerOf(operation), at)
    switch (event.type) {
      case 'invoke':
        this.#invoke(at, operation, event.call)
        return
      case 'ok':
        this.#end(at, operation, { outcome: 'ok', stay: event.stay })
        if (event.grant !== undefined) this.#grant(at, operation, event.grant)
        return
      case 'fail':
      case 'info':
        this.#end(at, operation, { outcome: event.type, stay: event.stay }, event.error)
        return
      case 'left':
        this.#leave(operation)
        return
      case 'held':
        known(this.#holds, operation).until = event.until
        return
      case 'release':
        known(this.#holds, operation).releasedAt ??= at
        return
      case 'lost':
        known(this.#holds, operation).lostAt ??= at
        return
      case 'shared':
        known(this.#holds, operation).sharedAt ??= at
        return
      case 'gap':
        this.#history.gaps.push({ worker: workerOf(operation), from: event.from, until: at })
    }
  }

  #invoke(invokedAt: number, operation: OperationId, call: AcquireCall | WriteCall): void {
    const begun = { operation, worker: workerOf(operation), invokedAt, endedAt: null, outcome: 'info' as const }
    if (call.action === 'acquire') {
      const wait: Wait = { ...begun, lock: call.lock, mode: call.mode, weight: call.weight }
      this.#waits.set(operation, wait)
      this.#history.waits.push(wait)
    } else {
      const write: Write = { ...begun, ...call, stay: undefined, error: undefined }
      this.#writes.set(operation, write)
      this.#history.writes.push(write)
    }
  }

  #end(
    endedAt: number,
    operation: OperationId,
    { outcome, stay }: { outcome: Outcome; stay?: Stay | undefined },
    error?: string,
  ) {
    const write = this.#writes.get(operation)
    if (write !== undefined) write.stay = stay
    Object.assign(write ?? known(this.#waits, operation), { endedAt, outcome })
    if (error === undefined) return
    if (write !== undefined) write.error = error
    const { errors } = this.#history
    errors.set(error, (errors.get(error) ?? 0) + 1)
  }

  #leave(operation: OperationId): void {
    const wait = known(this.#waits, operation)
    const { waits, departures } = this.#history
    waits.splice(waits.lastIndexOf(wait), 1)
    departures.push(wait)
  }

  #grant(grantedAt: number, operation: OperationId, grant: Grant): void {
    const { worker, lock, mode, weight, invokedAt: requestedAt } = known(this.#waits, operation)
    const ends = { releasedAt: null, lostAt: null, sharedAt: null }
    const hold: Hold = { operation, worker, lock, mode, weight, ...grant, requestedAt, grantedAt, ...ends }
    this.#holds.set(operation, hold)
    this.#history.holds.push(hold)
  }
}

function known<T>(calls: ReadonlyMap<OperationId, T>, operation: OperationId): T {
  const call = calls.get(operation)
  if (call === undefined) throw new Error(`the history knows of no call ${operation}`)
  return call
}

function workerOf(operation: OperationId): number {
  return Number.parseInt(operation, 10)
}
