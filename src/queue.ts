import { Batches, type Crowd } from './batch.ts'
import { DatabaseError, LockError, QueueFullError } from './errors.ts'
import { randomHex } from './random.ts'
import { untilUnlocked } from './retry.ts'
import type {
  Arrival,
  ArrivalResult,
  Departure,
  DepartureResult,
  Gate,
  Grant,
  Hold,
  Release,
  ReleaseResult,
  Settlement,
  Sight,
  Store,
} from './store/store.ts'
import { Listener } from './wake/listen.ts'
import { Poll } from './wake/poll.ts'
import { type Watch, watchFile } from './wake/watch.ts'

/** A hold that a waiting caller was handed; `remainingMs` count from `sentAt`, a time of performance.now(). */
export interface Handed extends Hold {
  readonly takeover: boolean
  readonly remainingMs: number
  readonly sentAt: number
}

/** What those who wait want to hold the lock by. Callers with other terms make entries of their own. */
export interface Terms {
  readonly ttlMs: number
  readonly session: string | null
  /** Stands for transactions, which wait for the end of leases only (see TransactionQueue). */
  readonly transaction?: boolean
}

/** One caller's place in the queue of a lock. */
export interface Place {
  /** The hold; or undefined if the lock's row is gone, so that it is time to try, or after `giveUp`. */
  readonly served: Promise<Handed | undefined>
  /** Whether the database has said anything of the lock since, if only that the row is locked. */
  readonly answered: boolean
  /** Resolves when it has. */
  whenAnswered(): Promise<void>
  /** Who held the lock when this process last looked, for people. */
  readonly holder: string | null
}

export interface QueueContext {
  readonly store: Store<never>
  /** Those who acquire and release. */
  readonly crowd: Crowd
  /** Our id, by which hand-offs are notified to us. */
  readonly process: string
  /** Our name, for people. */
  readonly holder: string
  readonly maxWaiters: number
  /** Work that nobody awaits; `close` does. */
  background(during: string, work: Promise<unknown>): void
}

/**
 * How often waiting processes look at their locks, all of them in one statement.
 *
 * LISTENED: every hand-off to us is notified; the look is for what gets lost, and still finds it before the hand-off has to
 * be claimed (CLAIM_MS). WATCHED: the file system tells of commits.
 * Otherwise a look is the only way to learn of a hand-off, and so the pause is the price of it: SHORTEST as long as things
 * move, and up to LONGEST the longer nothing does, WAITED_PART of that time.
 */
const LISTENED_LOOK_MS = 600
const WATCHED_LOOK_MS = 100
const SHORTEST_LOOK_MS = 6
const LONGEST_LOOK_MS = 50
const WAITED_PART = 1 / 20
/** A server is not asked more often than this, whatever happens. A look at a file costs little. */
const LOOKS_APART_MS = 4
/** Each pause is up to this part shorter or longer, so that processes do not march in step. */
const JITTER = 0.25
/** Nobody notifies of the end of a holder's session, so waiters for such a lease look more often. */
const SESSION_LOOK_MS = 120
/** A lease that has just run out is looked at a little later: clocks are rounded to milliseconds. */
const AFTER_EXPIRY_MS = 2
/** After a look that failed because the database could not be reached. */
const FAILED_LOOK_MS = 250
/** While a transaction has the row locked nobody can queue there: tried again this often. */
const SHORTEST_LOCKED_MS = 1
const LONGEST_LOCKED_MS = 50
/** A row that is still locked when the pauses have become so long is locked by a transaction, not by somebody's statement. */
const LOCKED_BY_TRANSACTIONS_MS = 8
/** A gate stays closed for a second (GATE_MS), should the process that closed it be gone. */
const CLOSE_GATE_AGAIN_MS = 500
/** A free lock whose row was locked at the moment is looked at again after that time. */
const SETTLE_AGAIN_MS = 10
/**
 * What a locked row keeps from being done is tried again for so long. From then on the looks of those who wait find a lock
 * that was not handed over, and an entry that stays in the queue passes on what it is handed.
 */
const UNTIL_UNLOCKED_MS = 2000

class Caller implements Place {
  readonly served: Promise<Handed | undefined>
  entry: Entry | undefined
  state: 'waiting' | 'giving up' | 'over' = 'waiting'
  handed: Handed | undefined
  readonly #joinedAt = performance.now()
  #resolve!: (handed: Handed | undefined) => void
  #reject!: (error: unknown) => void

  constructor(
    readonly line: Line,
    readonly terms: Terms,
    readonly deadline: number,
  ) {
    this.served = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    // The caller may have stopped listening.
    this.served.catch(() => undefined)
  }

  get holder(): string | null {
    return this.line.holder
  }

  get answered(): boolean {
    return this.line.answeredAt >= this.#joinedAt
  }

  whenAnswered(): Promise<void> {
    return this.answered ? Promise.resolve() : this.line.nextAnswer()
  }

  serve(handed: Handed | undefined): void {
    this.handed = handed
    this.end()
    this.#resolve(handed)
  }

  fail(error: unknown): void {
    this.end()
    this.#reject(error)
  }

  /** Not to be served any more. */
  end(): void {
    this.state = 'over'
    this.entry?.callers.delete(this)
  }
}

/** A run of our callers in the queue of a lock, as the database knows it by its id. */
class Entry {
  readonly callers = new Set<Caller>()
  /** When the database said that it is queued; a look sent before may not have seen it. */
  confirmedAt: number | undefined
  /** Callers that are being added to it, unless somebody else came in between. */
  joining: Entry | undefined

  constructor(
    readonly id: string,
    readonly terms: Terms,
    readonly listening: boolean,
    readonly provenAlive: boolean,
  ) {}

  next(): Caller | undefined {
    let last: Caller | undefined
    for (const caller of this.callers) {
      if (caller.state === 'waiting') return caller
      last ??= caller
    }
    return last ?? this.joining?.next()
  }
}

/** All of this process that wait for one lock, in order. */
class Line {
  /** Not known to the database yet. */
  arriving: Caller[] = []
  readonly entries = new Map<string, Entry>()
  /** Callers who leave, by the id of the entry that they leave. */
  readonly leaving = new Map<string, Caller[]>()
  last: Entry | undefined
  lastToken = 0n
  seenToken = 0n
  holder: string | null = null
  /** When the database last said anything of the lock. */
  answeredAt = Number.NEGATIVE_INFINITY
  #onAnswer: (() => void)[] = []
  enqueuing = false
  departing = false
  lockedMs = SHORTEST_LOCKED_MS
  gateClosedAt = Number.NEGATIVE_INFINITY
  /** Closed by callers of this lock who could not queue. */
  gate: Gate | undefined

  constructor(readonly name: string) {}

  answered(): void {
    this.answeredAt = performance.now()
    for (const resolve of this.#onAnswer.splice(0)) resolve()
  }

  nextAnswer(): Promise<void> {
    return new Promise((resolve) => this.#onAnswer.push(resolve))
  }

  /** A hand-off has taken one caller off the entry: somebody who leaves, if nobody else of it waits, and who need not be counted again. */
  takenOff(entry: string, caller: Caller | undefined): void {
    const leaving = this.leaving.get(entry)
    if (leaving === undefined) return
    const index = caller === undefined ? 0 : leaving.indexOf(caller)
    if (index >= 0) leaving.splice(index, 1)
    if (leaving.length === 0) this.leaving.delete(entry)
  }

  get empty(): boolean {
    if (this.enqueuing || this.departing || this.arriving.length > 0 || this.leaving.size > 0) return false
    for (const { callers } of this.entries.values()) if (callers.size > 0) return false
    return true
  }
}

/**
 * Those of this process who wait, for all locks: tells the database of them, in few statements, and gives each lock that
 * comes to this process to the caller whose turn it is. The order is the database's: first come, first served, across all
 * processes. What callers of this process do not need is a place each: a run of them is one entry there.
 */
export class Queue {
  readonly #context: QueueContext
  readonly #lines = new Map<string, Line>()
  /** Names that a caller of ours tries to get: others line up behind it. */
  readonly #attempting = new Set<string>()
  /** Owners of the holds that were handed to callers and are not over. A hand-off may be told twice, by a notification and a look. */
  readonly #served = new Set<string>()
  readonly #listener: Listener
  readonly #poll: Poll
  readonly #enqueues: Batches<Arrival, ArrivalResult>
  readonly #departures: Batches<Departure, DepartureResult>
  readonly #releases: Batches<Release, ReleaseResult>
  readonly #settlements: Batches<{ readonly name: string }, Settlement>
  readonly #gatesToClose: Batches<Gate, void>
  readonly #gatesToOpen: Batches<Gate, void>
  #watch: Promise<Watch | undefined> | undefined
  #watching = false
  #movedAt = 0
  #failure: DatabaseError | undefined
  #closed = false

  constructor(context: QueueContext) {
    const { store, crowd, process, maxWaiters } = context
    this.#context = context
    const { listen } = store
    this.#listener = new Listener(
      listen && ((onLost) => listen(process, (grant) => this.#take(grant, performance.now()), onLost)),
      () => this.#lookNow(),
    )
    this.#poll = new Poll(() => this.#look(), store.changingFile === undefined ? LOOKS_APART_MS : 0)
    this.#enqueues = new Batches((arrivals) => store.enqueue(arrivals, maxWaiters))
    this.#departures = new Batches((departures) => store.leave(departures))
    this.#releases = new Batches((holds) => store.release(holds, process), { crowd })
    this.#settlements = new Batches((asked) => store.settle(namesOf(asked), process))
    // In one order, since these statements wait for each other's rows.
    this.#gatesToClose = new Batches(async (asked) => {
      await store.closeGates?.(byName(asked))
      return asked.map(() => undefined)
    })
    this.#gatesToOpen = new Batches(async (asked) => {
      await store.openGates?.(byName(asked))
      return asked.map(() => undefined)
    })
  }

  /** Whether callers of this process try to get the lock, or wait for it: then there is no need to try as well. */
  contended(name: string): boolean {
    return this.#attempting.has(name) || this.#lines.has(name)
  }

  /** Locks that callers of this process wait for. */
  get size(): number {
    return this.#lines.size
  }

  /** A caller tries to get the lock; those who join meanwhile stay behind it until `endAttempt`. */
  beginAttempt(name: string): void {
    this.#attempting.add(name)
  }

  /** The attempt has an answer, which is one for those who lined up behind it. */
  attemptAnswered(name: string): void {
    this.#lines.get(name)?.answered()
  }

  endAttempt(name: string): void {
    this.#attempting.delete(name)
    const line = this.#lines.get(name)
    if (line !== undefined) this.#advance(line)
  }

  /** Waits for the lock, for `waitMs` at most; `ahead` of those who came while the caller tried. */
  join(name: string, terms: Terms, waitMs: number, ahead: boolean): Place {
    let line = this.#lines.get(name)
    if (line === undefined) {
      line = new Line(name)
      this.#lines.set(name, line)
    }
    const caller = new Caller(line, terms, performance.now() + waitMs)
    if (ahead) line.arriving.unshift(caller)
    else line.arriving.push(caller)
    this.#advance(line)
    return caller
  }

  /** Does not wait any more. What it may have been handed at this moment goes to the next. */
  leave(place: Place): void {
    const caller = place as Caller
    if (caller.handed !== undefined) this.#passOn(caller.handed)
    if (caller.state === 'over') return
    // Who has given up is leaving already, and would be counted twice.
    const { state } = caller
    caller.end()
    if (state === 'waiting') this.#depart(caller)
  }

  /** Does not wait any more, but takes the lock if it has been handed over already. The look at it may fail. */
  async giveUp(place: Place): Promise<Handed | undefined> {
    const caller = place as Caller
    if (caller.state === 'waiting') {
      caller.state = 'giving up'
      this.#depart(caller)
    }
    const handed = await caller.served
    if (handed === undefined && this.#failure !== undefined) throw this.#failure
    return handed
  }

  async release(hold: Hold): Promise<ReleaseResult['outcome']> {
    const sentAt = performance.now()
    const { outcome, handedOver, grant, unsettled } = await this.#releases.add(
      this.#lines.has(hold.name) ? { ...hold, awaited: true } : hold,
    )
    if (grant !== null) this.#take(grant, sentAt)
    else if (handedOver && this.#lines.has(hold.name)) this.#lookNow()
    if (unsettled) this.settleLater(hold.name)
    return outcome
  }

  /** Gives a lock that nobody holds to who waits for it. */
  async settle(name: string): Promise<Settlement['outcome']> {
    const sentAt = performance.now()
    const { outcome, grant } = await this.#settlements.add({ name })
    if (grant !== null) this.#take(grant, sentAt)
    else if (outcome === 'handed over' && this.#lines.has(name)) this.#lookNow()
    return outcome
  }

  /** The same as soon as a transaction that has the row locked lets it, in the background. */
  settleLater(name: string): void {
    this.#context.background(`handing over ${JSON.stringify(name)}`, this.#settleUntilUnlocked(name))
  }

  /** The hold of a served caller is over. */
  ended(owner: string): void {
    this.#served.delete(owner)
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#poll.stop()
    const watch = await this.#watch
    watch?.close()
    await this.#listener.close()
  }

  /** Tells the database of those who have arrived: in one statement at a time, which keeps their order. */
  #advance(line: Line): void {
    if (line.enqueuing || this.#attempting.has(line.name) || this.#closed) return
    if (line.arriving.length === 0) {
      this.#tidy(line)
    } else {
      line.enqueuing = true
      this.#context.background(`queueing for ${JSON.stringify(line.name)}`, this.#enqueue(line))
    }
  }

  async #enqueue(line: Line): Promise<void> {
    let pauseMs = 0
    await this.#listener.ready()
    this.#watch ??= this.#startWatching()
    const run = takeRun(line)
    if (run.length > 0) {
      const entry = new Entry(randomHex(8), run[0]!.terms, this.#listener.listening, this.#listener.provesLife)
      const joins = line.last !== undefined && joinable(line.last, entry) ? line.last : undefined
      for (const caller of run) {
        caller.entry = entry
        entry.callers.add(caller)
      }
      line.entries.set(entry.id, entry)
      if (joins !== undefined) joins.joining = entry
      try {
        const sentAt = performance.now()
        const result = await this.#enqueues.add(this.#toArrival(line, entry, joins, run))
        line.answered()
        if (joins !== undefined) joins.joining = undefined
        if (result.outcome === 'queued') {
          this.#queued(line, result.entry === entry.id || joins === undefined ? entry : join(line, entry, joins), run)
          line.lockedMs = SHORTEST_LOCKED_MS
          this.#openGate(line)
          this.#see(line, { ...result.sight, ready: result.sight.holder === null }, sentAt)
        } else {
          line.entries.delete(entry.id)
          pauseMs = this.#notQueued(line, result.outcome, entry)
        }
      } catch (error) {
        if (joins !== undefined) joins.joining = undefined
        for (const caller of [...entry.callers]) caller.fail(error)
        // It may be queued nevertheless, and what it is handed would be nobody's as soon as nobody here looks at the lock.
        if (error instanceof DatabaseError && error.failure === 'connection') this.#leaveEntry(line, entry.id, run)
      }
    }
    if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs))
    line.enqueuing = false
    this.#advance(line)
  }

  #queued(line: Line, entry: Entry, run: readonly Caller[]): void {
    entry.confirmedAt = performance.now()
    line.last = entry
    this.#moved()
    for (const caller of run) {
      caller.entry = entry
      // Those who left meanwhile, unserved, are counted by the database.
      if (caller.state !== 'waiting' && caller.handed === undefined) this.#depart(caller)
    }
    this.#lookBy(this.#pauseMs())
  }

  /**
   * Transactions may be taking turns, and no lease ever find the row unlocked: for a while, who comes next steps aside. A gate
   * that cannot be closed is a matter of fairness only.
   */
  #closeGate(line: Line): void {
    const now = performance.now()
    if (this.#context.store.closeGates === undefined || now < line.gateClosedAt + CLOSE_GATE_AGAIN_MS) return
    line.gateClosedAt = now
    line.gate ??= { name: line.name, by: randomHex(8) }
    this.#context.background(`closing the gate of ${JSON.stringify(line.name)}`, this.#gatesToClose.add(line.gate))
  }

  #openGate(line: Line): void {
    if (line.gate === undefined) return
    this.#context.background(`opening the gate of ${JSON.stringify(line.name)}`, this.#gatesToOpen.add(line.gate))
    line.gate = undefined
    line.gateClosedAt = Number.NEGATIVE_INFINITY
  }

  /** Answers how long to wait before the next attempt. */
  #notQueued(line: Line, outcome: 'full' | 'locked' | 'missing', entry: Entry): number {
    const callers = [...entry.callers]
    if (outcome === 'locked') {
      for (const caller of callers) caller.entry = undefined
      line.arriving.unshift(...callers)
      const pauseMs = line.lockedMs
      // Leases that came after transactions of this process are kept waiting, too.
      const leases = line.arriving.some(({ terms }) => terms.transaction !== true)
      if (pauseMs >= LOCKED_BY_TRANSACTIONS_MS && leases) this.#closeGate(line)
      line.lockedMs = Math.min(LONGEST_LOCKED_MS, pauseMs * 2)
      return pauseMs
    }
    for (const caller of callers) {
      if (outcome === 'full') caller.fail(new QueueFullError(line.name, this.#context.maxWaiters))
      else caller.serve(undefined)
    }
    return 0
  }

  #toArrival(line: Line, entry: Entry, joins: Entry | undefined, run: readonly Caller[]): Arrival {
    const now = performance.now()
    return {
      name: line.name,
      count: run.length,
      entry: entry.id,
      joins: joins?.id ?? null,
      ttlMs: entry.terms.ttlMs,
      session: entry.terms.session,
      holder: this.#context.holder,
      process: this.#context.process,
      listening: entry.listening,
      provenAlive: entry.provenAlive,
      transaction: entry.terms.transaction === true,
      waitMs: Math.min(LONGEST_WAIT_MS, Math.max(...run.map(({ deadline }) => deadline - now)) + LEAVING_MS),
    }
  }

  /** Takes a caller who does not wait any more out of the queue, together with others of its entry. */
  #depart(caller: Caller): void {
    const { line, entry } = caller
    // Where the database does not know it yet, whoever tells it of this entry looks for those who left.
    if (entry === undefined || entry.confirmedAt === undefined) {
      if (entry === undefined) line.arriving = line.arriving.filter((other) => other !== caller)
      caller.serve(undefined)
      this.#tidy(line)
      return
    }
    this.#leaveEntry(line, entry.id, [caller])
  }

  #leaveEntry(line: Line, entry: string, callers: readonly Caller[]): void {
    line.leaving.set(entry, [...(line.leaving.get(entry) ?? []), ...callers])
    if (line.departing) return
    line.departing = true
    this.#context.background(`leaving the queue of ${JSON.stringify(line.name)}`, this.#sendDepartures(line))
  }

  async #sendDepartures(line: Line): Promise<void> {
    try {
      await untilUnlocked(() => this.#sendEachDeparture(line), UNTIL_UNLOCKED_MS)
    } finally {
      line.departing = false
      for (const callers of line.leaving.values()) leftWithout(callers)
      line.leaving.clear()
      this.#tidy(line)
    }
  }

  /** Answers whether all of them have left; the others are to be asked for again. */
  async #sendEachDeparture(line: Line): Promise<boolean> {
    const staying: [string, Caller[]][] = []
    for (const [id, callers] of line.leaving) {
      line.leaving.delete(id)
      if (await this.#sendDeparture(line, id, callers)) continue
      const unserved = callers.filter(({ handed }) => handed === undefined)
      if (unserved.length > 0) staying.push([id, unserved])
    }
    for (const [id, callers] of staying) line.leaving.set(id, [...callers, ...(line.leaving.get(id) ?? [])])
    return staying.length === 0
  }

  /** Callers have their answer at once, even if they could not leave. */
  async #sendDeparture(line: Line, entry: string, callers: readonly Caller[]): Promise<boolean> {
    const sentAt = performance.now()
    try {
      const { left, grant } = await this.#departures.add({ name: line.name, entry, count: callers.length })
      if (grant !== null) this.#take({ ...grant, process: this.#context.process }, sentAt)
      return left
    } finally {
      leftWithout(callers)
    }
  }

  /** A hand-off to this process: by a notification, a look, or the answer to a statement of our own. */
  #take(grant: Grant, sentAt: number): void {
    if (grant.process !== this.#context.process || this.#served.has(grant.owner)) return
    const line = this.#lines.get(grant.name)
    if (line !== undefined && grant.token <= line.lastToken) return
    const caller = line?.entries.get(grant.owner.slice(0, 16))?.next()
    if (caller !== undefined && performance.now() >= sentAt + grant.remainingMs) {
      // Too late, as far as can be told: somebody else may have it by now. The next look finds out.
      this.#lookNow()
      return
    }
    if (line !== undefined) {
      line.lastToken = grant.token
      line.takenOff(grant.owner.slice(0, 16), caller)
    }
    this.#moved()
    if (caller === undefined) {
      this.#passOn(grant)
    } else {
      const { name, owner, token, takeover } = grant
      const remainingMs = Math.min(grant.remainingMs, caller.terms.ttlMs)
      this.#served.add(owner)
      caller.serve({ name, owner, token, takeover, remainingMs, sentAt })
      this.#tidy(line!)
    }
  }

  /** To the next: nobody here wants it any more. */
  #passOn(hold: Hold): void {
    this.#served.delete(hold.owner)
    this.#context.background(`passing on ${JSON.stringify(hold.name)}`, this.#releaseUntilUnlocked(hold))
  }

  /** Whoever joins or leaves the queue has the row locked for a moment, and nobody else would pass the lock on. */
  async #releaseUntilUnlocked(hold: Hold): Promise<void> {
    await untilUnlocked(async () => (await this.release(hold)) !== 'locked', UNTIL_UNLOCKED_MS)
  }

  async #settleUntilUnlocked(name: string): Promise<void> {
    await untilUnlocked(async () => (await this.settle(name)) !== 'locked' || this.#closed, UNTIL_UNLOCKED_MS)
  }

  async #look(): Promise<void> {
    const lines = [...this.#lines.values()]
    if (lines.length === 0) return
    const sentAt = performance.now()
    try {
      const sights = new Map(
        (await this.#context.store.look(lines.map(({ name }) => name))).map((sight) => [sight.name, sight]),
      )
      this.#failure = undefined
      for (const line of lines) this.#see(line, sights.get(line.name) ?? gone(line.name), sentAt)
      this.#lookBy(this.#pauseMs())
    } catch (error) {
      this.#lookFailed(error)
    }
  }

  /** An outage is waited out: those who wait have their deadlines. Anything else they have to know. */
  #lookFailed(error: unknown): void {
    if (error instanceof DatabaseError && error.failure !== 'other') {
      this.#failure = error
      this.#lookBy(FAILED_LOOK_MS)
      return
    }
    const failure =
      error instanceof LockError ? error : new LockError('DATABASE', 'the look at the locks failed', { cause: error })
    for (const line of [...this.#lines.values()]) {
      const callers = [...line.arriving, ...[...line.entries.values()].flatMap((entry) => [...entry.callers])]
      line.arriving = []
      for (const caller of callers) caller.fail(failure)
      this.#tidy(line)
    }
  }

  #see(line: Line, sight: Sight, sentAt: number): void {
    const { holder } = sight
    line.answered()
    line.holder = holder?.label ?? null
    if (holder !== null && holder.token !== line.seenToken) {
      line.seenToken = holder.token
      this.#moved()
    }
    if (holder !== null && line.entries.has(holder.owner.slice(0, 16))) {
      this.#take({ ...holder, process: this.#context.process }, sentAt)
    }
    this.#enqueueAgain(line, sight, sentAt)
    if (holder === null && !sight.leasesWait) this.#sendTransactions(line)
    if (sight.ready) this.#context.background(`handing over ${JSON.stringify(line.name)}`, this.#settleSeen(line))
    this.#tidy(line)
    if (holder !== null) {
      this.#lookBy(holder.remainingMs + AFTER_EXPIRY_MS)
      if (sight.bySession) this.#lookBy(jittered(SESSION_LOOK_MS))
    }
  }

  /** No lease is in the way of transactions any more: among themselves they wait in the database, and not here. */
  #sendTransactions(line: Line): void {
    for (const { terms, callers } of line.entries.values()) {
      if (terms.transaction !== true) continue
      for (const caller of callers) {
        if (caller.state !== 'waiting') continue
        caller.state = 'giving up'
        this.#depart(caller)
      }
    }
  }

  /** An entry that is not in the queue any more has had its turns; those of it who still wait missed theirs. */
  #enqueueAgain(line: Line, sight: Sight, sentAt: number): void {
    for (const entry of [...line.entries.values()].reverse()) {
      const unseen = entry.confirmedAt === undefined || entry.confirmedAt >= sentAt || entry.joining !== undefined
      if (unseen || sight.entries.includes(entry.id)) continue
      line.entries.delete(entry.id)
      if (line.last === entry) line.last = undefined
      const callers = [...entry.callers].filter(({ state }) => state === 'waiting')
      for (const caller of callers) caller.entry = undefined
      line.arriving.unshift(...callers)
    }
    if (line.arriving.length > 0) this.#advance(line)
  }

  async #settleSeen(line: Line): Promise<void> {
    const outcome = await this.settle(line.name)
    if (outcome === 'locked') this.#lookBy(SETTLE_AGAIN_MS)
    else if (outcome === 'idle') this.#lookBy(0)
  }

  #tidy(line: Line): void {
    if (!line.empty || this.#attempting.has(line.name) || this.#lines.get(line.name) !== line) return
    this.#lines.delete(line.name)
    if (this.#lines.size === 0) this.#poll.stop()
  }

  #lookNow(): void {
    this.#lookBy(0)
  }

  #lookBy(inMs: number): void {
    if (this.#lines.size > 0 && !this.#closed) this.#poll.by(performance.now() + inMs)
  }

  #moved(): void {
    this.#movedAt = performance.now()
  }

  #pauseMs(): number {
    if (this.#listener.listening) return jittered(LISTENED_LOOK_MS)
    if (this.#watching) return jittered(WATCHED_LOOK_MS)
    const stillMs = performance.now() - this.#movedAt
    return jittered(Math.min(LONGEST_LOOK_MS, Math.max(SHORTEST_LOOK_MS, stillMs * WAITED_PART)))
  }

  async #startWatching(): Promise<Watch | undefined> {
    try {
      const path = await this.#context.store.changingFile?.()
      if (path == null) return undefined
      const watch = watchFile(
        path,
        () => this.#lines.size > 0 && !this.#closed,
        // `by` would go through the event loop once more.
        () => this.#poll.atOnce(),
      )
      this.#watching = true
      return watch
    } catch {
      // A hint that is missing is no failure: looks are only more frequent.
      return undefined
    }
  }
}

/** Who waits longer has to queue again once a day, so that the entries of processes that died do not stay for ever. */
const LONGEST_WAIT_MS = 24 * 60 * 60 * 1000
/** An entry outlives its callers' deadlines by this much, for they leave by themselves. */
const LEAVING_MS = 1000

/** Takes the first callers with the same terms out of those who arrived. */
function takeRun(line: Line): Caller[] {
  const [first] = line.arriving
  if (first === undefined) return []
  const end = line.arriving.findIndex(({ terms }) => !sameTerms(terms, first.terms))
  return line.arriving.splice(0, end === -1 ? line.arriving.length : end)
}

function sameTerms(a: Terms, b: Terms): boolean {
  return a.ttlMs === b.ttlMs && a.session === b.session && a.transaction === b.transaction
}

function joinable(last: Entry, next: Entry): boolean {
  return sameTerms(last.terms, next.terms) && last.listening === next.listening && last.provenAlive === next.provenAlive
}

/** The callers of `entry` were added to `joined` instead. */
function join(line: Line, entry: Entry, joined: Entry): Entry {
  line.entries.delete(entry.id)
  for (const caller of entry.callers) joined.callers.add(caller)
  return joined
}

/** They do not wait any more, and those who have not been handed the lock do not get it. */
function leftWithout(callers: readonly Caller[]): void {
  for (const caller of callers) if (caller.state !== 'over') caller.serve(undefined)
}

/** In one order, so that no two of these statements wait for each other in a circle. */
function byName(gates: readonly Gate[]): Gate[] {
  return [...gates].sort((a, b) => (a.name < b.name ? -1 : 1))
}

function namesOf(asked: readonly { readonly name: string }[]): string[] {
  return asked.map(({ name }) => name)
}

function gone(name: string): Sight {
  return { name, holder: null, bySession: false, ready: false, leasesWait: false, entries: [] }
}

function jittered(ms: number): number {
  return ms * (1 - JITTER + 2 * JITTER * Math.random())
}
