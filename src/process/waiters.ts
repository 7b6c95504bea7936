import { DatabaseError, LockError, QueueFullError } from '../base/errors.ts'
import { randomHex } from '../base/random.ts'
import { untilUnlocked } from '../base/timing.ts'
import { newTicketId, ticketOf } from '../protocol/ids.ts'
import {
  CONFIRM_MS,
  type Demand,
  type EnqueueResult,
  type Gate,
  type Grant,
  type Hold,
  type LockView,
  type NewTicket,
  type Share,
  toHold,
} from '../protocol/store.ts'
import { type HandOffs, type Recipients, UNTIL_UNLOCKED_MS } from './hand-offs.ts'
import { misuse } from './misuse.ts'
import type { ProcessStore } from './store/index.ts'
import { Told } from './told.ts'
import { Listener } from './wake/listen.ts'
import { Poll } from './wake/poll.ts'
import { type Watch, watchFile } from './wake/watch.ts'

/** A hold that a waiter was handed; `remainingMs` count from `sentAt`, a time of performance.now(). */
export interface HandedOver extends Hold {
  readonly takeover: boolean
  readonly checkpointed?: boolean | undefined
  readonly remainingMs: number
  readonly sentAt: number
}

/** What those who wait want to hold the lock by. Waiters with other terms have tickets of their own. */
export interface Terms extends Demand {
  readonly ttlMs: number
  readonly session: string | null
  /** Stands for transactions, which wait for the end of leases only (see TransactionWaiters). */
  readonly transaction?: boolean
}

/** A caller who waits for a lock. */
export interface Waiter {
  /** The hold; or undefined if the lock's row is gone, so that it is time to try, or after `giveUp`. */
  readonly served: Promise<HandedOver | undefined>
  /** Whether the database has said anything of the lock since, if only that the row is locked. */
  readonly answered: boolean
  /** Resolves when it has. */
  whenAnswered(): Promise<void>
  /** Who held the lock when this process last polled it, for people. */
  readonly holder: string | null
  /** When the database had said that it is in the queue, as a time of performance.now(); undefined if it is not. */
  readonly queuedAt: number | undefined
}

export interface WaitersContext {
  readonly store: ProcessStore<never>
  readonly handOffs: HandOffs
  /** Our id, by which hand-offs are notified to us. */
  readonly process: string
  /** Our name, for people. */
  readonly holder: string
  readonly maxWaiters: number
  /** Work that nobody awaits; `close` does. */
  background(during: string, work: Promise<unknown>): void
}

/**
 * How often waiting processes poll their locks, all of them in one statement.
 *
 * LISTENED: every hand-off to us is notified; the poll is for what gets lost, and still finds it before the hand-off has to
 * be confirmed (CONFIRM_MS). WATCHED: the file system tells of commits.
 * Otherwise a poll is the only way to learn of a hand-off, and so the pause is the price of it: SHORTEST as long as things
 * move, and up to LONGEST the longer nothing does, WAITED_PART of that time.
 */
const LISTENED_POLL_MS = 600
const WATCHED_POLL_MS = 100
const SHORTEST_POLL_MS = 6
const LONGEST_POLL_MS = 50
const WAITED_PART = 1 / 20
/** A server is not asked more often than this, whatever happens. A poll of a file costs little. */
const POLLS_APART_MS = 4
/** Each pause is up to this part shorter or longer, so that processes do not march in step. */
const JITTER = 0.25
/**
 * Nobody notifies of the end of a holder's session, nor of that of a transaction which has a shared hold, so waiters for such
 * ones poll more often.
 */
const UNNOTIFIED_POLL_MS = 120
/** A lease that has just run out is polled a little later: clocks are rounded to milliseconds. */
const AFTER_EXPIRY_MS = 2
/** After a poll that failed because the database could not be reached. */
const FAILED_POLL_MS = 250
/** While a transaction has the row locked nobody can queue there: tried again this often. */
const SHORTEST_LOCKED_MS = 1
const LONGEST_LOCKED_MS = 50
/** A row that is still locked when the pauses have become so long is locked by a transaction, not by somebody's statement. */
const LOCKED_BY_TRANSACTIONS_MS = 8
/** A gate stays closed for a second (GATE_MS), should the process that closed it be gone. */
const CLOSE_GATE_AGAIN_MS = 500
/** A free lock whose row was locked at the moment is polled again after that time. */
const PROMOTE_AGAIN_MS = 10

/** Callers who try to get a lock at once. */
interface Attempting {
  count: number
  exclusive: boolean
}

type NotQueued = Exclude<EnqueueResult, { readonly outcome: 'queued' }>

class LocalWaiter implements Waiter {
  readonly served: Promise<HandedOver | undefined>
  ticket: LocalTicket | undefined
  state: 'waiting' | 'giving up' | 'over' = 'waiting'
  handed: HandedOver | undefined
  readonly #joinedAt = performance.now()
  #resolve!: (handed: HandedOver | undefined) => void
  #reject!: (error: unknown) => void

  constructor(
    readonly lock: LockWaiters,
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
    return this.lock.holder
  }

  get queuedAt(): number | undefined {
    return this.ticket?.queuedAt
  }

  get answered(): boolean {
    return this.lock.answeredAt >= this.#joinedAt
  }

  whenAnswered(): Promise<void> {
    return this.answered ? Promise.resolve() : this.lock.nextAnswer()
  }

  serve(handed: HandedOver | undefined): void {
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
    this.ticket?.waiters.delete(this)
  }
}

/** A run of our waiters in the queue of a lock, as the database knows it by its id. */
class LocalTicket {
  readonly waiters = new Set<LocalWaiter>()
  /** When the database said that it is queued; a poll sent before may not have seen it. */
  queuedAt: number | undefined
  /** Waiters that are being added to it, unless somebody else came in between. */
  joining: LocalTicket | undefined

  constructor(
    readonly id: string,
    readonly terms: Terms,
    readonly listening: boolean,
    readonly provenAlive: boolean,
  ) {}

  next(): LocalWaiter | undefined {
    let last: LocalWaiter | undefined
    for (const waiter of this.waiters) {
      if (waiter.state === 'waiting') return waiter
      last ??= waiter
    }
    return last ?? this.joining?.next()
  }
}

/** A run of waiters of which the database is told by one ticket. */
interface Arrival {
  readonly ticket: LocalTicket
  readonly run: readonly LocalWaiter[]
}

interface Refused extends Arrival {
  readonly result: NotQueued
}

/** Those of a ticket who leave. */
type Departure = readonly [ticket: string, waiters: readonly LocalWaiter[]]

/** All of this process that wait for one lock, in order. */
class LockWaiters {
  /** Not known to the database yet. */
  arriving: LocalWaiter[] = []
  /** How many of them had tried to get the lock before, and are before those who lined up behind them. */
  refused = 0
  readonly tickets = new Map<string, LocalTicket>()
  /** Those who leave, by their tickets. */
  readonly leaving = new Map<string, LocalWaiter[]>()
  last: LocalTicket | undefined
  readonly told = new Told()
  seenToken = 0n
  holder: string | null = null
  /** When the database last said anything of the lock. */
  answeredAt = Number.NEGATIVE_INFINITY
  #onAnswer: (() => void)[] = []
  enqueuing = false
  withdrawing = false
  lockedMs = SHORTEST_LOCKED_MS
  /** So many of them queue in one statement: fewer than there are if there was no room for all. */
  mostAtOnce = Number.POSITIVE_INFINITY
  gateClosedAt = Number.NEGATIVE_INFINITY
  /** Closed by waiters of this lock who could not queue. */
  gate: Gate | undefined

  constructor(readonly name: string) {}

  answered(): void {
    this.answeredAt = performance.now()
    for (const resolve of this.#onAnswer.splice(0)) resolve()
  }

  nextAnswer(): Promise<void> {
    return new Promise((resolve) => this.#onAnswer.push(resolve))
  }

  /** A hand-off has taken one off the ticket: somebody who leaves, if nobody else of it waits, and who need not be counted again. */
  takenOff(ticket: string, waiter: LocalWaiter | undefined): void {
    const leaving = this.leaving.get(ticket)
    if (leaving === undefined) return
    const index = waiter === undefined ? 0 : leaving.indexOf(waiter)
    if (index >= 0) leaving.splice(index, 1)
    if (leaving.length === 0) this.leaving.delete(ticket)
  }

  get empty(): boolean {
    if (this.enqueuing || this.withdrawing || this.arriving.length > 0 || this.leaving.size > 0) return false
    for (const { waiters } of this.tickets.values()) if (waiters.size > 0) return false
    return true
  }
}

/**
 * Those of this process who wait, for all locks: tells the database of them, in few statements, and gives each lock that
 * comes to this process to the waiter whose turn it is. The order is the database's: first come, first served, across all
 * processes. What waiters of this process do not need is a ticket each: a run of them has one.
 */
export class Waiters implements Recipients {
  readonly #context: WaitersContext
  readonly #locks = new Map<string, LockWaiters>()
  /** Names that callers of ours try to get: others wait behind them. */
  readonly #attempting = new Map<string, Attempting>()
  /** Owners of the holds that were handed to waiters and are not over. A hand-off may be told twice, by a notification and a poll. */
  readonly #served = new Set<string>()
  readonly #listener: Listener
  readonly #poll: Poll
  #watch: Promise<Watch | undefined> | undefined
  #watching = false
  #movedAt = 0
  #failure: DatabaseError | undefined
  #closed = false

  constructor(context: WaitersContext) {
    this.#context = context
    const { store, process, handOffs } = context
    const { listen, changingFile } = store.store
    this.#listener = new Listener(
      listen && ((onLost) => listen(process, (grant) => this.take(grant, performance.now()), onLost)),
      () => this.pollNow(),
    )
    this.#poll = new Poll(() => this.#pollAll(), changingFile === undefined ? POLLS_APART_MS : 0)
    handOffs.recipients = this
  }

  /**
   * Whether callers of this process try to get the lock, or wait for it: then there is no need to try as well. But those who
   * want to share it may all try at once.
   */
  contended(name: string, { weight }: Share): boolean {
    const attempting = this.#attempting.get(name)
    const inTheWay = attempting !== undefined && (weight === null || attempting.exclusive)
    return inTheWay || this.waitFor(name)
  }

  waitFor(name: string): boolean {
    return this.#locks.has(name)
  }

  /** How many locks callers of this process wait for. */
  get size(): number {
    return this.#locks.size
  }

  /** A caller tries to get the lock; those who join meanwhile stay behind it until `endAttempt`. */
  beginAttempt(name: string, { weight }: Share): void {
    const attempting = this.#attempting.get(name) ?? { count: 0, exclusive: false }
    attempting.count++
    attempting.exclusive ||= weight === null
    this.#attempting.set(name, attempting)
  }

  /** The attempt has an answer, which is one for those who lined up behind it. */
  attemptAnswered(name: string): void {
    this.#locks.get(name)?.answered()
  }

  endAttempt(name: string): void {
    const attempting = this.#attempting.get(name)
    if (attempting !== undefined && --attempting.count > 0) return
    this.#attempting.delete(name)
    const lock = this.#locks.get(name)
    if (lock !== undefined) this.#advance(lock)
  }

  /** Waits for the lock, for `waitMs` at most; `ahead` of those who came while the caller tried. */
  join(name: string, terms: Terms, waitMs: number, ahead: boolean): Waiter {
    let lock = this.#locks.get(name)
    if (lock === undefined) {
      lock = new LockWaiters(name)
      this.#locks.set(name, lock)
    }
    const waiter = new LocalWaiter(lock, terms, performance.now() + waitMs)
    if (ahead) lock.arriving.splice(lock.refused++, 0, waiter)
    else lock.arriving.push(waiter)
    this.#advance(lock)
    return waiter
  }

  /** Does not wait any more. What it may have been handed at this moment goes to the next. */
  leave(waiter: Waiter): void {
    const local = waiter as LocalWaiter
    if (local.handed !== undefined) this.#passOn(local.handed)
    if (local.state === 'over') return
    // Who has given up is leaving already, and would be counted twice.
    const { state } = local
    local.end()
    if (state === 'waiting') this.#withdraw(local)
  }

  /** Does not wait any more, but takes the lock if it has been handed over already. The poll that tells may fail. */
  async giveUp(waiter: Waiter): Promise<HandedOver | undefined> {
    const local = waiter as LocalWaiter
    if (local.state === 'waiting') {
      local.state = 'giving up'
      this.#withdraw(local)
    }
    const handed = await local.served
    if (handed === undefined && this.#failure !== undefined) throw this.#failure
    return handed
  }

  /** The hold of a served waiter is over. */
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
  #advance(lock: LockWaiters): void {
    if (lock.enqueuing || this.#attempting.has(lock.name) || this.#closed) return
    lock.refused = 0
    if (lock.arriving.length === 0) {
      this.#tidy(lock)
    } else {
      lock.enqueuing = true
      this.#context.background(`queueing for ${JSON.stringify(lock.name)}`, this.#enqueue(lock))
    }
  }

  async #enqueue(lock: LockWaiters): Promise<void> {
    let pauseMs = 0
    await this.#listener.ready()
    this.#watch ??= this.#startWatching()
    const arrivals = takeRuns(lock, lock.mostAtOnce).map((run) => this.#arrive(lock, run))
    if (isAny(arrivals)) {
      const [{ ticket: first }] = arrivals
      const joins = lock.last !== undefined && joinable(lock.last, first) ? lock.last : undefined
      if (joins !== undefined) joins.joining = first
      try {
        const sentAt = performance.now()
        const results = await this.#context.store.enqueue(this.#toTickets(lock, arrivals, joins))
        lock.answered()
        if (joins !== undefined) joins.joining = undefined
        pauseMs = this.#answered(lock, arrivals, results, joins, sentAt)
      } catch (error) {
        if (joins !== undefined) joins.joining = undefined
        // They may be queued nevertheless, and what they are handed would be nobody's as soon as nobody here polls the lock.
        const isUnknown = error instanceof DatabaseError && error.failure === 'connection'
        for (const { ticket, run } of arrivals) {
          for (const waiter of [...ticket.waiters]) waiter.fail(error)
          if (isUnknown) this.#withdrawFrom(lock, ticket.id, run)
        }
      }
    }
    if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs))
    lock.enqueuing = false
    this.#advance(lock)
  }

  #arrive(lock: LockWaiters, run: readonly LocalWaiter[]): Arrival {
    const ticket = new LocalTicket(newTicketId(), run[0]!.terms, this.#listener.listening, this.#listener.provesLife)
    for (const waiter of run) {
      waiter.ticket = ticket
      ticket.waiters.add(waiter)
    }
    lock.tickets.set(ticket.id, ticket)
    return { ticket, run }
  }

  /** Answers how long to wait before the others are told again. */
  #answered(
    lock: LockWaiters,
    arrivals: readonly Arrival[],
    results: readonly EnqueueResult[],
    joins: LocalTicket | undefined,
    sentAt: number,
  ): number {
    const others: Refused[] = []
    let view: LockView | undefined
    for (const [index, { ticket, run }] of arrivals.entries()) {
      const result = results[index]!
      if (result.outcome === 'queued') {
        const isOwn = result.ticket === ticket.id || joins === undefined
        this.#queued(lock, isOwn ? ticket : join(lock, ticket, joins), run)
        view = result.view
      } else {
        lock.tickets.delete(ticket.id)
        others.push({ ticket, run, result })
      }
    }
    if (view !== undefined) {
      lock.lockedMs = SHORTEST_LOCKED_MS
      lock.mostAtOnce = Number.POSITIVE_INFINITY
      this.#openGate(lock)
    }
    const pauseMs = this.#notQueued(lock, others)
    if (view !== undefined) this.#see(lock, view, sentAt)
    return pauseMs
  }

  #queued(lock: LockWaiters, ticket: LocalTicket, run: readonly LocalWaiter[]): void {
    ticket.queuedAt = performance.now()
    lock.last = ticket
    this.#moved()
    for (const waiter of run) {
      waiter.ticket = ticket
      // Those who left meanwhile, unserved, are counted by the database.
      if (waiter.state !== 'waiting' && waiter.handed === undefined) this.#withdraw(waiter)
    }
    this.#pollBy(this.#pauseMs())
  }

  /**
   * Transactions may be taking turns, and no lease ever find the row unlocked: for a while, who comes next steps aside. A gate
   * that cannot be closed is a matter of fairness only.
   */
  #closeGate(lock: LockWaiters): void {
    const now = performance.now()
    if (this.#context.store.store.closeGates === undefined || now < lock.gateClosedAt + CLOSE_GATE_AGAIN_MS) return
    lock.gateClosedAt = now
    lock.gate ??= { name: lock.name, by: randomHex(8) }
    this.#context.background(
      `closing the gate of ${JSON.stringify(lock.name)}`,
      this.#context.store.closeGate(lock.gate),
    )
  }

  #openGate(lock: LockWaiters): void {
    if (lock.gate === undefined) return
    this.#context.background(
      `opening the gate of ${JSON.stringify(lock.name)}`,
      this.#context.store.openGate(lock.gate),
    )
    lock.gate = undefined
    lock.gateClosedAt = Number.NEGATIVE_INFINITY
  }

  /** Answers how long to wait before the next attempt, which finds out more of what is missing. */
  #notQueued(lock: LockWaiters, refused: readonly Refused[]): number {
    for (const { ticket, result } of refused) {
      for (const waiter of [...ticket.waiters]) {
        if (result.outcome === 'unfit') waiter.fail(misuse(lock.name, ticket.terms, result.kind))
        else if (result.outcome === 'missing') waiter.serve(undefined)
        else waiter.ticket = undefined
      }
    }
    lock.arriving.unshift(...refused.flatMap(({ ticket }) => [...ticket.waiters]))
    if (refused.some(({ result }) => result.outcome === 'locked')) return this.#rowLocked(lock)
    const full = refused.find(({ result }) => result.outcome === 'full')
    // There may be room for some of the first.
    if (full !== undefined && full.run.length > 1) lock.mostAtOnce = Math.ceil(full.run.length / 2)
    else if (full !== undefined) this.#queueFull(lock)
    return 0
  }

  #rowLocked(lock: LockWaiters): number {
    const pauseMs = lock.lockedMs
    // Leases that came after transactions of this process are kept waiting, too.
    const leases = lock.arriving.some(({ terms }) => terms.transaction !== true)
    if (pauseMs >= LOCKED_BY_TRANSACTIONS_MS && leases) this.#closeGate(lock)
    lock.lockedMs = Math.min(LONGEST_LOCKED_MS, pauseMs * 2)
    return pauseMs
  }

  /** Nor is there room for those who have come since. */
  #queueFull(lock: LockWaiters): void {
    lock.mostAtOnce = Number.POSITIVE_INFINITY
    for (const waiter of lock.arriving.splice(0)) waiter.fail(new QueueFullError(lock.name, this.#context.maxWaiters))
  }

  #toTickets(
    lock: LockWaiters,
    [first, ...others]: readonly [Arrival, ...Arrival[]],
    joins: LocalTicket | undefined,
  ): readonly [NewTicket, ...NewTicket[]] {
    return [this.#toTicket(lock, first, joins), ...others.map((other) => this.#toTicket(lock, other, undefined))]
  }

  #toTicket(lock: LockWaiters, { ticket, run }: Arrival, joins: LocalTicket | undefined): NewTicket {
    const now = performance.now()
    return {
      weight: ticket.terms.weight,
      permits: ticket.terms.permits,
      name: lock.name,
      count: run.length,
      ticket: ticket.id,
      joins: joins?.id ?? null,
      ttlMs: ticket.terms.ttlMs,
      session: ticket.terms.session,
      holder: this.#context.holder,
      process: this.#context.process,
      listening: ticket.listening,
      provenAlive: ticket.provenAlive,
      transaction: ticket.terms.transaction === true,
      waitMs: Math.min(LONGEST_WAIT_MS, Math.max(...run.map(({ deadline }) => deadline - now)) + LEAVING_MS),
    }
  }

  /** Takes a waiter who does not wait any more out of the queue, together with others. */
  #withdraw(waiter: LocalWaiter): void {
    const { lock, ticket } = waiter
    // Where the database does not know it yet, whoever tells it of this ticket finds those who left.
    if (ticket === undefined || ticket.queuedAt === undefined) {
      if (ticket === undefined) lock.arriving = lock.arriving.filter((other) => other !== waiter)
      waiter.serve(undefined)
      this.#tidy(lock)
      return
    }
    this.#withdrawFrom(lock, ticket.id, [waiter])
  }

  #withdrawFrom(lock: LockWaiters, ticket: string, waiters: readonly LocalWaiter[]): void {
    lock.leaving.set(ticket, [...(lock.leaving.get(ticket) ?? []), ...waiters])
    if (lock.withdrawing) return
    lock.withdrawing = true
    this.#context.background(`leaving the queue of ${JSON.stringify(lock.name)}`, this.#sendWithdrawals(lock))
  }

  async #sendWithdrawals(lock: LockWaiters): Promise<void> {
    try {
      await untilUnlocked(() => this.#sendEachWithdrawal(lock), UNTIL_UNLOCKED_MS)
    } finally {
      lock.withdrawing = false
      for (const waiters of lock.leaving.values()) leftWithout(waiters)
      lock.leaving.clear()
      this.#tidy(lock)
    }
  }

  /** Answers whether all of them have left; the others are to be asked for again. */
  async #sendEachWithdrawal(lock: LockWaiters): Promise<boolean> {
    const staying: Departure[] = []
    while (lock.leaving.size > 0) {
      const departures = [...lock.leaving]
      lock.leaving.clear()
      for (const [id, waiters] of await this.#sendWithdrawal(lock, departures)) {
        const unserved = waiters.filter(({ handed }) => handed === undefined)
        if (unserved.length > 0) staying.push([id, unserved])
      }
    }
    for (const [id, waiters] of staying) lock.leaving.set(id, [...waiters, ...(lock.leaving.get(id) ?? [])])
    return staying.length === 0
  }

  /** Answers who could not leave. Callers have their answer at once, all the same. */
  async #sendWithdrawal(lock: LockWaiters, departures: readonly Departure[]): Promise<readonly Departure[]> {
    const sentAt = performance.now()
    const asked = departures.map(([ticket, waiters]) => ({ name: lock.name, ticket, count: waiters.length }))
    try {
      const results = isAny(asked) ? await this.#context.store.withdraw(asked) : []
      for (const { grants } of results) {
        for (const grant of grants) this.take({ ...grant, process: this.#context.process }, sentAt)
      }
      if (results.some(({ promotable }) => promotable)) this.#context.handOffs.promoteLater(lock.name)
      return departures.filter((_, index) => !results[index]!.withdrawn)
    } finally {
      for (const [, waiters] of departures) leftWithout(waiters)
    }
  }

  /** A hand-off: by a notification, a poll, or the answer to a statement of our own. */
  take(grant: Grant, sentAt: number): void {
    if (grant.process !== this.#context.process || this.#served.has(grant.owner)) return
    const lock = this.#locks.get(grant.name)
    if (lock?.told.has(grant.token)) return
    const waiter = lock?.tickets.get(ticketOf(grant.owner))?.next()
    if (waiter !== undefined && performance.now() >= sentAt + grant.remainingMs) {
      // Too late, as far as can be told: somebody else may have it by now. The next poll finds out.
      this.pollNow()
      return
    }
    if (lock !== undefined) {
      lock.told.add(grant.token, grant.weight === null)
      lock.takenOff(ticketOf(grant.owner), waiter)
    }
    this.#moved()
    if (waiter === undefined) {
      this.#passOn(grant)
    } else {
      const { owner, takeover, checkpointed } = grant
      const remainingMs = Math.min(grant.remainingMs, waiter.terms.ttlMs)
      this.#served.add(owner)
      waiter.serve({ ...toHold(grant), takeover, checkpointed, remainingMs, sentAt })
      this.#tidy(lock!)
    }
  }

  /** To the next: nobody here wants it any more. */
  #passOn(hold: Hold): void {
    this.#served.delete(hold.owner)
    this.#context.handOffs.passOn(hold)
  }

  async #pollAll(): Promise<void> {
    const locks = [...this.#locks.values()]
    if (locks.length === 0) return
    const sentAt = performance.now()
    try {
      const views = new Map(
        (await this.#context.store.store.poll(locks.map(({ name }) => name))).map((view) => [view.name, view]),
      )
      this.#failure = undefined
      for (const lock of locks) this.#see(lock, views.get(lock.name) ?? gone(lock.name), sentAt)
      this.#pollBy(this.#pauseMs())
    } catch (error) {
      this.#pollFailed(error)
    }
  }

  /** An outage is waited out: those who wait have their deadlines. Anything else they have to know. */
  #pollFailed(error: unknown): void {
    if (error instanceof DatabaseError && error.failure !== 'other') {
      this.#failure = error
      this.#pollBy(FAILED_POLL_MS)
      return
    }
    const failure =
      error instanceof LockError ? error : new LockError('DATABASE', 'polling the locks failed', { cause: error })
    for (const lock of [...this.#locks.values()]) {
      const waiters = [...lock.arriving, ...[...lock.tickets.values()].flatMap((ticket) => [...ticket.waiters])]
      lock.arriving = []
      for (const waiter of waiters) waiter.fail(failure)
      this.#tidy(lock)
    }
  }

  #see(lock: LockWaiters, view: LockView, sentAt: number): void {
    const [holder] = view.holders
    lock.answered()
    lock.holder = holder?.label ?? null
    for (const { token } of view.holders) {
      if (token <= lock.seenToken) continue
      lock.seenToken = token
      this.#moved()
    }
    for (const each of view.holders) {
      if (lock.tickets.has(ticketOf(each.owner))) this.take({ ...each, process: this.#context.process }, sentAt)
    }
    this.#enqueueAgain(lock, view, sentAt)
    if (holder === undefined && !view.leasesWait) this.#sendTransactions(lock)
    if (view.promotable) this.#context.background(`handing over ${JSON.stringify(lock.name)}`, this.#promote(lock))
    this.#tidy(lock)
    for (const { remainingMs } of view.holders) this.#pollBy(remainingMs + AFTER_EXPIRY_MS)
    // What a transaction shares has a second left at most, and ends with the transaction, before or after.
    const mayEndSoon = view.holders.some(({ slot, remainingMs }) => slot !== undefined && remainingMs <= CONFIRM_MS)
    if (view.bySession || mayEndSoon) this.#pollBy(jittered(UNNOTIFIED_POLL_MS))
  }

  /** No lease is in the way of transactions any more: among themselves they wait in the database, and not here. */
  #sendTransactions(lock: LockWaiters): void {
    for (const { terms, waiters } of lock.tickets.values()) {
      if (terms.transaction !== true) continue
      for (const waiter of waiters) {
        if (waiter.state !== 'waiting') continue
        waiter.state = 'giving up'
        this.#withdraw(waiter)
      }
    }
  }

  /** A ticket that is not in the queue any more has had its turns; those of it who still wait missed theirs. */
  #enqueueAgain(lock: LockWaiters, view: LockView, sentAt: number): void {
    const queued = new Set(view.tickets)
    for (const ticket of [...lock.tickets.values()].reverse()) {
      const unseen = ticket.queuedAt === undefined || ticket.queuedAt >= sentAt || ticket.joining !== undefined
      if (unseen || queued.has(ticket.id)) continue
      lock.tickets.delete(ticket.id)
      if (lock.last === ticket) lock.last = undefined
      const waiters = [...ticket.waiters].filter(({ state }) => state === 'waiting')
      for (const waiter of waiters) waiter.ticket = undefined
      lock.arriving.unshift(...waiters)
    }
    if (lock.arriving.length > 0) this.#advance(lock)
  }

  async #promote(lock: LockWaiters): Promise<void> {
    const outcome = await this.#context.handOffs.promote(lock.name)
    if (outcome === 'locked') this.#pollBy(PROMOTE_AGAIN_MS)
    else if (outcome === 'idle') this.#pollBy(0)
  }

  #tidy(lock: LockWaiters): void {
    if (!lock.empty || this.#attempting.has(lock.name) || this.#locks.get(lock.name) !== lock) return
    this.#locks.delete(lock.name)
    if (this.#locks.size === 0) this.#poll.stop()
  }

  pollNow(): void {
    this.#pollBy(0)
  }

  #pollBy(inMs: number): void {
    if (this.#locks.size > 0 && !this.#closed) this.#poll.by(performance.now() + inMs)
  }

  #moved(): void {
    this.#movedAt = performance.now()
  }

  #pauseMs(): number {
    if (this.#listener.listening) return jittered(LISTENED_POLL_MS)
    if (this.#watching) return jittered(WATCHED_POLL_MS)
    const stillMs = performance.now() - this.#movedAt
    return jittered(Math.min(LONGEST_POLL_MS, Math.max(SHORTEST_POLL_MS, stillMs * WAITED_PART)))
  }

  async #startWatching(): Promise<Watch | undefined> {
    try {
      const path = await this.#context.store.store.changingFile?.()
      if (path == null) return undefined
      const watch = watchFile(
        path,
        () => this.#locks.size > 0 && !this.#closed,
        // `by` would go through the event loop once more.
        () => this.#poll.atOnce(),
      )
      this.#watching = true
      return watch
    } catch {
      // A hint that is missing is no failure: polls are only more frequent.
      return undefined
    }
  }
}

/** Who waits longer has to queue again once a day, so that the tickets of processes that died do not stay for ever. */
const LONGEST_WAIT_MS = 24 * 60 * 60 * 1000
/** A ticket outlives its waiters' deadlines by this much, for they leave by themselves. */
const LEAVING_MS = 1000

/** Takes the first of those who arrived, in their order: each run has the same terms. */
function takeRuns(lock: LockWaiters, most: number): LocalWaiter[][] {
  const runs: LocalWaiter[][] = []
  for (const waiter of lock.arriving.splice(0, most)) {
    const last = runs.at(-1)
    if (last !== undefined && sameTerms(last[0]!.terms, waiter.terms)) last.push(waiter)
    else runs.push([waiter])
  }
  return runs
}

function isAny<Item>(items: readonly Item[]): items is readonly [Item, ...Item[]] {
  return items.length > 0
}

function sameTerms(a: Terms, b: Terms): boolean {
  const areAlike = a.weight === b.weight && (a.permits === null) === (b.permits === null)
  return areAlike && a.ttlMs === b.ttlMs && a.session === b.session && a.transaction === b.transaction
}

function joinable(last: LocalTicket, next: LocalTicket): boolean {
  return sameTerms(last.terms, next.terms) && last.listening === next.listening && last.provenAlive === next.provenAlive
}

/** The waiters of `ticket` were added to `joined` instead. */
function join(lock: LockWaiters, ticket: LocalTicket, joined: LocalTicket): LocalTicket {
  lock.tickets.delete(ticket.id)
  for (const waiter of ticket.waiters) joined.waiters.add(waiter)
  return joined
}

/** They do not wait any more, and those who have not been handed the lock do not get it. */
function leftWithout(waiters: readonly LocalWaiter[]): void {
  for (const waiter of waiters) if (waiter.state !== 'over') waiter.serve(undefined)
}

function gone(name: string): LockView {
  return { name, token: 0n, holders: [], bySession: false, promotable: false, leasesWait: false, tickets: [] }
}

function jittered(ms: number): number {
  return ms * (1 - JITTER + 2 * JITTER * Math.random())
}
