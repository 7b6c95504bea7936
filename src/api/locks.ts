import { randomBytes } from 'node:crypto'
import { isAdapter, type MemoryAdapter, type SqlAdapter } from '../adapters/adapter.ts'
import type { MemoryTransaction } from '../adapters/memory-database.ts'
import { OwnConnection } from '../adapters/own-connection.ts'
import { DenseSet } from '../base/dense-set.ts'
import { type Duration, toMilliseconds } from '../base/duration.ts'
import { DatabaseError, LockError, LockLostError, LockTimeoutError } from '../base/errors.ts'
import { fromJson } from '../base/json.ts'
import { untilUnlocked } from '../base/timing.ts'
import { memoryStore } from '../engines/memory/store.ts'
import { mysqlStore } from '../engines/mysql/store.ts'
import { postgresStore } from '../engines/postgres/store.ts'
import { sqliteStore } from '../engines/sqlite/store.ts'
import { AnswerBound } from '../process/answer-bound.ts'
import { acquire, type Granted, type Wanted } from '../process/attempts.ts'
import { BeforeSnapshot } from '../process/before-snapshot.ts'
import { type Call, Calls } from '../process/calls.ts'
import { Deadlocks } from '../process/deadlocks.ts'
import { HandOffs } from '../process/hand-offs.ts'
import { Heartbeat } from '../process/heartbeat.ts'
import { Resignations } from '../process/resignations.ts'
import { type LiveSession, Sessions } from '../process/sessions.ts'
import { acquireAll, type SeveralContext } from '../process/several.ts'
import { SharedAttempts } from '../process/shared-attempts.ts'
import { type ProcessStore, processStore } from '../process/store/index.ts'
import { TransactionAttempts } from '../process/transaction-attempts.ts'
import { TransactionWaiters } from '../process/transaction-waiters.ts'
import { Waiters } from '../process/waiters.ts'
import { Watches } from '../process/watches.ts'
import type { Claim } from '../protocol/circles.ts'
import { type Hold, type Store, toHold } from '../protocol/store.ts'
import { type Election, type ElectionContext, type ElectionOptions, LockElection } from './election.ts'
import { Events, type LockListener } from './events.ts'
import { type LockInfo, toInfo } from './info.ts'
import { type CronOptions, type EveryOptions, type Job, type JobRun, Jobs } from './jobs.ts'
import { type Lease, type LeaseContext, LeaseHandle, type LeaseJson } from './lease.ts'
import { type OnceContext, type OnceOptions, type OnceOutcome, once } from './once.ts'
import {
  checkBody,
  checkName,
  checkOptions,
  checkText,
  currentTransaction,
  type HeldLease,
  type InstanceOptions,
  type InstanceSettings,
  type LockOptions,
  type LockRequest,
  modeOf,
  type RunOptions,
  type RunOutcome,
  refuseMode,
  toNames,
  toReenter,
  toRequest,
  toSettings,
  toTtl,
  withHoldAtLeast,
} from './options.ts'
import { heldAround, Reentry, type RunHold } from './reentry.ts'
import { PermitSemaphore, type Semaphore, type SemaphoreContext, type SemaphoreOptions } from './semaphore.ts'
import { type Leases, LeasesHandle } from './several.ts'
import {
  confirmationFailed,
  Transaction,
  type TransactionContext,
  type TransactionLocks,
  type WithinOptions,
} from './transaction.ts'

/** What `createLocks` takes: made by fromPg, fromKysely, fromMemory and the like. */
export type Adapter<Tx> = SqlAdapter<Tx> | MemoryAdapter

export interface ForceOptions {
  readonly wait?: Duration | undefined
  /** Only the hold with that token, if it still stands. Left out: all holds. */
  readonly token?: bigint
}

/** Locks of one database, as one process uses them. Make one for the life of the process, and close it at its end. */
export interface Locks<Tx> {
  /**
   * Makes or updates rowlock's tables; answers the names of the migrations that it applied, which are none if all was up to
   * date. Safe to call from any number of processes at once, and again.
   */
  migrate(): Promise<string[]>
  /**
   * Resolves with a lease, or rejects with LockTimeoutError after `wait`, or with the signal's reason. With DeadlockError at
   * once if it would wait for the caller itself: for a run around the call, or for a lease in `holding`.
   */
  acquire(name: string, options?: LockOptions): Promise<Lease<Tx>>
  /** Resolves with a lease, or with null if somebody holds the lock. Never waits for it. */
  tryAcquire(name: string, options?: LockOptions): Promise<Lease<Tx> | null>
  /**
   * Resolves with leases of all these locks, from 1 to 1,000, or of none. Takes them in byte order, so that no two such calls
   * wait for each other: while it waits for one, it holds those before, and renews them; one that it loses meanwhile it waits
   * for again. LockTimeoutError if `wait` is over before it has all. The terms run from when all are held.
   */
  acquireAll(names: readonly string[], options?: LockOptions): Promise<Leases<Tx>>
  /**
   * Resolves with leases of all these locks, or with null if somebody holds one of them. Never waits. Those that are free are
   * taken and given back, so two such calls for some of the same locks may both be answered with null.
   */
  tryAcquireAll(names: readonly string[], options?: LockOptions): Promise<Leases<Tx> | null>
  /**
   * Runs `body` under a lease and releases it afterwards. What the body rejects with comes through unchanged; a body that
   * resolved although its lease was lost rejects with LockLostError, which carries the `result`. In the body, a run for the
   * same name rejects with DeadlockError at once, or shares the lease with `reenter`.
   */
  run<T>(name: string, options: RunOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T>
  /** As run, but does not run the body if somebody holds the lock. */
  tryRun<T>(name: string, options: RunOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<RunOutcome<T>>
  /**
   * A semaphore: its permits can be held by several at once, in all processes. Does not ask the database yet. Its name is
   * nobody else's: a lock is no semaphore.
   */
  semaphore(name: string, options: SemaphoreOptions): Semaphore<Tx>
  /**
   * Runs `body` unless `key` is done, and answers what it gave, or what it gave when it was done. Done is what a body has
   * resolved for whose lease was held until then; for `keepFor`. One process at a time runs it, under a lease on the lock of that
   * name: the others wait, `wait` at most, and get the value. If the body rejects, its error comes through, nothing is done, and
   * the next caller runs. LockLostError, with the result, if the lease was lost; UnstorableResultError if what the body gave is
   * nothing that JSON carries, or more than 64 KiB of it.
   */
  once<T>(key: string, options: OnceOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<OnceOutcome<T>>
  /**
   * Runs `body` once in each period, in one of all processes that say the same: at the multiples of `period`, from 100 ms to a
   * year, since 1970 by the database's clock. Runs of one name never overlap, under leases on the lock of that name. A body
   * that rejects is an `error` event. A process that says another period for that name later is followed by all.
   */
  every(period: Duration, name: string, options: EveryOptions, body: (run: JobRun<Tx>) => unknown): Job
  /**
   * The same at the instants of a cron expression, which the package `croner` reads: each in one process, whatever their clocks
   * say. None is passed over while one of them is there, which may take it up to 10 s late.
   */
  cron(expression: string, name: string, options: CronOptions, body: (run: JobRun<Tx>) => unknown): Job
  /** An election: the lock of that name, held by one leader of all processes. Does not ask the database yet. */
  election(name: string, options?: ElectionOptions): Election<Tx>
  /**
   * Resolves when nobody holds the lock, or any permit of the semaphore, and holds nothing itself: somebody may have it a moment later.
   * LockTimeoutError after `wait`. What a transaction holds that has not committed is not seen.
   */
  waitUntilFree(name: string, options?: Pick<LockOptions, 'wait' | 'signal'>): Promise<void>
  /** Locks in a transaction of the caller's, or in the one that a function finds when it is called. */
  within(tx: Tx | (() => Tx), options?: WithinOptions): TransactionLocks<Tx>
  /**
   * A lease from its JSON form, in this or another process; from now on renewed here, too. LockLostError if it is not held.
   */
  restore(json: LeaseJson, options?: Pick<LockOptions, 'renew' | 'maxHold'>): Promise<Lease<Tx>>
  /** Who holds a lock or a semaphore, and who waits for it; or null when nobody holds it. */
  inspect(name: string): Promise<LockInfo | null>
  /** All locks that are held, in byte order of their names. */
  list(options?: { readonly prefix?: string }): Promise<LockInfo[]>
  /**
   * Takes the lock from all who hold it, or from the one with that `token` alone: true, or false if there was none. The evicted
   * holder's next guarded write fails. Waits for a guarded transaction that is under way; LOCK_TIMEOUT if that takes longer
   * than `wait`. DATABASE if there is no answer within `wait` and a second: it may have been taken.
   */
  forceRelease(name: string, options?: ForceOptions): Promise<boolean>
  /** Deletes the rows of locks that nobody has held for `idleFor`; answers how many. Their tokens will not be reissued. */
  purge(options: { readonly idleFor: Duration }): Promise<number>
  /** Calls `listener` for each event of this instance. Returns the function that unsubscribes. */
  on(listener: LockListener): () => void
  /**
   * Ends all waits, releases the leases of this instance, whose signals abort first, and stops its timers. The pool or
   * handle stays the caller's. Takes two `statementTimeout` at most, whatever keeps the database from answering.
   */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** Sets up locks on a database. Does not connect yet. */
export function createLocks(adapter: MemoryAdapter, options?: InstanceOptions): Locks<MemoryTransaction>
export function createLocks<Tx>(adapter: Adapter<Tx>, options?: InstanceOptions): Locks<Tx>
export function createLocks<Tx>(adapter: Adapter<Tx>, options: InstanceOptions = {}): Locks<Tx> {
  const settings = toSettings(options)
  const own = ownConnection(adapter, settings)
  return new Instance<Tx>(createStore(adapter, options, own), settings, own)
}

function ownConnection<Tx>(adapter: Adapter<Tx>, settings: InstanceSettings): OwnConnection {
  const { statementTimeoutMs: timeoutMs, ownConnection: wanted } = settings
  const served = adapter?.engine === 'postgres' || adapter?.engine === 'mysql'
  return new OwnConnection(adapter as SqlAdapter<never>, { enabled: wanted && served, timeoutMs })
}

function createStore<Tx>(adapter: Adapter<Tx>, naming: InstanceOptions, own: OwnConnection): Store<Tx> {
  const known = isAdapter(adapter) ? adapter : undefined
  switch (known?.engine) {
    case 'postgres':
      return postgresStore(known, naming, own)
    case 'mysql':
      return mysqlStore(known, naming, own)
    case 'sqlite':
      return sqliteStore(known, naming)
    case 'memory':
      return memoryStore(known.database) as unknown as Store<Tx>
    default:
      throw new LockError(
        'INVALID_ARGUMENT',
        'createLocks takes an adapter: fromPg(pool), fromMysql2(pool), fromBetterSqlite3(database), fromKysely(db), fromMemory(), ...',
      )
  }
}

class Instance<Tx> implements Locks<Tx> {
  readonly #process: ProcessStore<Tx>
  readonly #store: Store<Tx>
  readonly #settings: InstanceSettings
  readonly #own: OwnConnection
  readonly #events = new Events()
  readonly #heartbeat: Heartbeat
  readonly #handOffs: HandOffs
  readonly #waiters: Waiters
  readonly #deadlocks: Deadlocks
  readonly #sessions: Sessions
  readonly #leases = new DenseSet<LeaseHandle<Tx>>()
  /** Calls that may yet end in a lease. */
  readonly #calls = new Calls()
  readonly #background = new Set<Promise<void>>()
  #assessed = false
  #triedOutside = false
  #assessing: Promise<void> | undefined
  #assessingOutside: Promise<unknown> | undefined
  readonly #warned = new Set<string>()
  readonly #reentry: Reentry<LeaseHandle<Tx>>
  readonly #acquireContext: SeveralContext
  readonly #leaseContext: LeaseContext<Tx>
  readonly #transactionContext: TransactionContext<Tx>
  readonly #semaphoreContext: SemaphoreContext<Tx>
  readonly #onceContext: OnceContext<Tx>
  readonly #jobs: Jobs<Tx>
  readonly #watches: Watches
  readonly #resignations: Resignations
  readonly #electionContext: ElectionContext<Tx>
  readonly #closing = new AbortController()
  #closed: Promise<void> | undefined
  #over = false

  constructor(engine: Store<Tx>, settings: InstanceSettings, own: OwnConnection) {
    const { holder, maxWaiters, statementTimeoutMs } = settings
    const process = (randomBytes(8).readBigInt64BE() >> 1n).toString()
    const background = (during: string, work: Promise<unknown>) => this.#inBackground(during, work)
    const calls = processStore(engine, { statementTimeoutMs, process, maxWaiters })
    const { store } = calls
    this.#process = calls
    this.#store = store
    this.#settings = settings
    this.#own = own
    own.onWarning = (message) => this.#warn(message)
    own.isNeeded = () => this.#leases.size > 0 || this.#waiters.size > 0
    this.#heartbeat = new Heartbeat((holds) => store.renew(holds))
    this.#sessions = new Sessions((onLost) => store.openSession(onLost))
    const handOffs = new HandOffs({ ...calls, background })
    const waiters = new Waiters({
      store: calls as ProcessStore<never>,
      handOffs,
      process,
      holder,
      maxWaiters,
      background,
    })
    this.#handOffs = handOffs
    this.#waiters = waiters
    this.#deadlocks = new Deadlocks({
      holder,
      publish: (waits) => store.publishWaits(process, waits),
      look: async (name) => {
        const state = await store.inspect(name, true)
        // Of what a transaction holds there is no state.
        const [view] = state === null ? await store.poll([name]) : []
        return { state, token: state?.token ?? view?.token ?? 0n }
      },
      background,
    })
    this.#acquireContext = {
      deadlocks: this.#deadlocks,
      waiters,
      handOffs,
      holder,
      statementTimeoutMs,
      attempt: (attempt) => calls.acquire(attempt),
      background,
      calls: this.#calls,
      heartbeat: this.#heartbeat,
      local: store.synchronous || store.single,
      renew: (holds) => store.renew(holds),
    }
    this.#reentry = new Reentry((lease) => lease instanceof LeaseHandle && lease.isOf(this.#leaseContext))
    this.#leaseContext = {
      store: calls,
      handOffs,
      heartbeat: this.#heartbeat,
      leases: this.#leases,
      events: this.#events,
      statementTimeoutMs,
      isOver: () => this.#over,
      background,
    }
    this.#transactionContext = {
      attempts: new TransactionAttempts<Tx>({
        store,
        handOffs,
        waiters,
        transactionWaiters: new TransactionWaiters(waiters),
        beforeSnapshot: new BeforeSnapshot(async (names) => (await store.pollTransactions?.(names)) ?? []),
        outside: own.outside,
        deadlocks: this.#deadlocks,
        assessed: () => this.#assessOutside(own),
        holder,
        statementTimeoutMs,
      }),
      run: (signal, body) => this.#calls.run(signal, body),
      request: (names, options) => this.#requestFor(names, options, true),
      tryRequest: (name, options) => this.#requestFor([name], options, false),
      claims: ({ holding }) => this.#claimsOf(holding),
      confirm: (hold, request) => this.#confirm(hold, request, confirmationFailed(hold.name)),
      marks: store,
      sharedAttempts: new SharedAttempts<Tx>({
        store,
        acquire: { ...this.#acquireContext, attempt: (attempt) => calls.acquireBeside(attempt) },
        assessed: () => this.#assessOutside(own),
      }),
    }
    // Whoever has permits may want more of them, and no run shares them.
    const permitRuns = new Reentry<LeaseHandle<Tx>>(() => false)
    this.#semaphoreContext = {
      store,
      handOffs,
      request: (name, options) => this.#requestFor([name], options, false),
      acquire: (request, waits, permits) => this.#acquireAs(request, waits, permits),
      run: (lease, body) => this.#run(permitRuns.begin(lease), body),
      warn: (message) => this.#warn(message),
      assertOpen: () => this.#assertOpen(),
      assessed: () => this.#untilAssessed(),
    }
    this.#onceContext = {
      store,
      // Only a try answers null.
      acquire: (name, options) => this.#acquire(name, options, true) as Promise<LeaseHandle<Tx>>,
      run: (lease, body) => this.#run(this.#reentry.begin(lease), body),
      ready: async () => {
        this.#assertOpen()
        await this.#untilAssessed()
      },
    }
    const ofJobs = {
      ...this.#onceContext,
      assertOpen: () => this.#assertOpen(),
      check: (name: string, options: LockOptions) => void this.#requestFor([name], options, false),
      failed: (during: string, cause: unknown) => this.#failed(during, cause),
    }
    const { ttlMs } = settings.defaults
    this.#jobs = new Jobs<Tx>({ ...ofJobs, ttlMs, warn: (message) => this.#warn(message) })
    this.#watches = new Watches({
      store,
      background,
      listen: (changed) => this.#events.on((event) => 'name' in event && changed(event.name)),
    })
    this.#resignations = new Resignations({ store, background })
    this.#electionContext = {
      ...ofJobs,
      watches: this.#watches,
      resignations: this.#resignations,
      closing: this.#closing.signal,
    }
  }

  async migrate(): Promise<string[]> {
    this.#assertOpen()
    await this.#assess()
    const applied = await this.#store.migrate()
    // Where the tables are was not known before.
    if (applied.length > 0) this.#assessed = false
    return applied
  }

  acquire(name: string, options?: LockOptions): Promise<Lease<Tx>> {
    // Only a try answers null.
    return this.#acquire(name, options, true) as Promise<LeaseHandle<Tx>>
  }

  tryAcquire(name: string, options?: LockOptions): Promise<Lease<Tx> | null> {
    return this.#acquire(name, options, false)
  }

  semaphore(name: string, options: SemaphoreOptions): Semaphore<Tx> {
    this.#assertOpen()
    return new PermitSemaphore(this.#semaphoreContext, name, options)
  }

  acquireAll(names: readonly string[], options?: LockOptions): Promise<Leases<Tx>> {
    // Only a try answers null.
    return this.#acquireAll(names, options, true) as Promise<Leases<Tx>>
  }

  tryAcquireAll(names: readonly string[], options?: LockOptions): Promise<Leases<Tx> | null> {
    return this.#acquireAll(names, options, false)
  }

  async run<T>(name: string, options: RunOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T> {
    checkBody(body)
    const hold = this.#enter(name, options) ?? this.#reentry.begin((await this.#acquireFor(name, options, true))!)
    return this.#run(hold, body)
  }

  async tryRun<T>(
    name: string,
    options: RunOptions,
    body: (lease: Lease<Tx>) => Promise<T> | T,
  ): Promise<RunOutcome<T>> {
    checkBody(body)
    let hold = this.#enter(name, options)
    if (hold === undefined) {
      const lease = await this.#acquireFor(name, options, false)
      if (lease === null) return { ran: false }
      hold = this.#reentry.begin(lease)
    }
    return { ran: true, value: await this.#run(hold, body) }
  }

  async once<T>(
    key: string,
    options: OnceOptions,
    body: (lease: Lease<Tx>) => Promise<T> | T,
  ): Promise<OnceOutcome<T>> {
    return once(this.#onceContext, key, options, body)
  }

  every(period: Duration, name: string, options: EveryOptions, body: (run: JobRun<Tx>) => unknown): Job {
    return this.#jobs.every(period, name, options, body)
  }

  cron(expression: string, name: string, options: CronOptions, body: (run: JobRun<Tx>) => unknown): Job {
    return this.#jobs.cron(expression, name, options, body)
  }

  election(name: string, options: ElectionOptions = {}): Election<Tx> {
    return new LockElection(this.#electionContext, name, options)
  }

  async waitUntilFree(name: string, options?: Pick<LockOptions, 'wait' | 'signal'>): Promise<void> {
    const { signal, waitMs } = this.#requestFor([name], options, false)
    this.#assertOpen()
    const bound = new AnswerBound(null, this.#settings.statementTimeoutMs)
    await this.#calls.run(signal, async (call) => {
      call.throwIfCancelled()
      if (!this.#assessed) await bound.race(call, this.#assess())
      await this.#watches.untilFree(call, name, waitMs)
    })
  }

  within(tx: Tx | (() => Tx), options: WithinOptions = {}): TransactionLocks<Tx> {
    this.#assertOpen()
    checkWithinOptions(options)
    return new Transaction(this.#transactionContext, currentTransaction(tx), options)
  }

  async restore(json: LeaseJson, options: Pick<LockOptions, 'renew' | 'maxHold'> = {}): Promise<Lease<Tx>> {
    const { ttlMs, ...hold } = checkLeaseJson(json)
    refuseMode(options, 'restore', 'the lease has the mode that it had')
    const request = toRequest(json.name, { ...options, ttl: ttlMs }, this.#settings.defaults)
    return this.#confirm(
      { ...hold, name: request.name },
      request,
      new LockLostError(json.name, 'it is not held any more'),
    )
  }

  async inspect(name: string): Promise<LockInfo | null> {
    checkName(name)
    this.#assertOpen()
    const state = await this.#store.inspect(name)
    if (state === null) return null
    const [info] = await toInfo(this.#store, [state])
    return info!
  }

  async list(options: { readonly prefix?: string } = {}): Promise<LockInfo[]> {
    checkOptions(options)
    const { prefix = '' } = options
    checkText('prefix', prefix)
    this.#assertOpen()
    return toInfo(this.#store, await this.#store.list(prefix))
  }

  async forceRelease(name: string, options: ForceOptions = {}): Promise<boolean> {
    const { waitMs } = toRequest(name, options, this.#settings.defaults)
    this.#assertOpen()
    const { token } = options
    // What is undefined by mistake must not evict everybody.
    if ('token' in options && (typeof token !== 'bigint' || token < 1n || token > MOST_TOKEN)) {
      throw new LockError(
        'INVALID_ARGUMENT',
        `token must be a bigint, as a lease has it, not ${typeof token === 'bigint' ? token : typeof token}; leave it out to free the lock whoever holds it`,
      )
    }
    const bound = new AnswerBound(waitMs, this.#settings.statementTimeoutMs)
    let forced = false
    const forcing = untilUnlocked(async () => {
      const answer = await this.#store.forceRelease(name, token)
      forced = answer === 'released'
      return answer !== 'locked'
    }, waitMs)
    if (!(await bound.within(forcing))) {
      throw new LockError(
        'LOCK_TIMEOUT',
        `the lock ${JSON.stringify(name)} could not be force-released within ${waitMs} ms: a guarded transaction is still open`,
      )
    }
    if (forced) {
      this.#events.emit({ type: 'forced', name })
      await this.#promoteForced(name, bound)
    }
    return forced
  }

  /** The lock is free by now, whatever becomes of this: those who wait also look for themselves. */
  async #promoteForced(name: string, bound: AnswerBound): Promise<void> {
    try {
      if ((await bound.within(this.#handOffs.promote(name))) !== 'locked') return
    } catch (cause) {
      this.#events.emit({ type: 'error', during: `handing over ${JSON.stringify(name)}`, cause })
    }
    this.#handOffs.promoteLater(name)
  }

  async purge(options: { readonly idleFor: Duration }): Promise<number> {
    checkOptions(options)
    const idleMs = toMilliseconds('idleFor', options.idleFor, { max: Number.MAX_SAFE_INTEGER })
    this.#assertOpen()
    return this.#store.purge(idleMs)
  }

  on(listener: LockListener): () => void {
    if (typeof listener !== 'function') {
      throw new LockError(
        'INVALID_ARGUMENT',
        `on takes a function, which is called with each event, not ${typeof listener}`,
      )
    }
    return this.#events.on(listener)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #acquire(name: string, options: LockOptions | undefined, waits: boolean): Promise<LeaseHandle<Tx> | null> {
    return this.#acquireAs(this.#requestFor([name], options, waits), waits)
  }

  /** For a body of run. */
  async #acquireFor(name: string, options: RunOptions, waits: boolean): Promise<LeaseHandle<Tx> | null> {
    return this.#acquireAs(withHoldAtLeast(this.#requestFor([name], options, waits), options), waits)
  }

  #acquireAs(request: LockRequest, waits: boolean, permits?: () => Promise<number>): Promise<LeaseHandle<Tx> | null> {
    return this.#whileOpen(request, waits, async (call, bound, wanted, session) => {
      const demand = permits === undefined ? wanted : { ...wanted, permits: await bound.race(call, permits()) }
      const granted = await acquire(this.#acquireContext, call, demand, bound)
      if (granted === null) return null
      const lease = this.#leaseOf(granted, request, session)
      await this.#furnish([lease], [granted], request, call, bound)
      return lease
    })
  }

  async #acquireAll(
    asked: readonly string[],
    options: LockOptions | undefined,
    waits: boolean,
  ): Promise<Leases<Tx> | null> {
    const names = toNames(asked)
    const request = this.#requestFor(names, options, waits)
    return this.#whileOpen(request, waits, async (call, bound, wanted, session) => {
      const stopListening = session?.onLost((cause) =>
        call.cancel(new LockLostError(request.name, SESSION_GONE, { cause })),
      )
      try {
        const granted = await acquireAll(this.#acquireContext, call, { ...wanted, names }, bound)
        if (granted === null) return null
        const leases = granted.map((each) => this.#leaseOf(each, request, session))
        for (const lease of leases) lease.onEnd(() => this.#waiters.ended(lease.owner))
        await this.#furnish(leases, granted, request, call, bound)
        return new LeasesHandle({ ...this.#leaseContext, synchronous: this.#store.synchronous }, leases)
      } finally {
        stopListening?.()
      }
    })
  }

  /** Runs `body` as a call that ends with the signal and with the instance. */
  async #whileOpen<T>(
    request: LockRequest,
    waits: boolean,
    body: (call: Call, bound: AnswerBound, wanted: Wanted, session: LiveSession | null) => Promise<T>,
  ): Promise<T> {
    this.#assertOpen()
    const waitMs = waits ? request.waitMs : null
    const bound = new AnswerBound(waitMs, this.#settings.statementTimeoutMs)
    const call = this.#calls.begin(request.signal)
    try {
      call.throwIfCancelled()
      if (!this.#assessed) await bound.race(call, this.#assess())
      const session = request.takeover === 'session' ? await bound.race(call, this.#sessions.current()) : null
      const claims = waits ? this.#claimsOf(request.holding) : undefined
      const ttlMs = Math.max(request.ttlMs, request.atLeastMs)
      return await body(call, bound, { ...request, ttlMs, waitMs, session: session?.id ?? null, claims }, session)
    } catch (error) {
      if (error instanceof LockError && error.code === 'LOCK_TIMEOUT') {
        const name = error instanceof LockTimeoutError ? error.lock : request.name
        this.#events.emit({ type: 'timeout', name, waitedMs: request.waitMs })
      }
      throw error
    } finally {
      this.#calls.end(call)
    }
  }

  /** The terms of all of these names, under the first of them. DeadlockError if the caller would wait for itself. */
  #requestFor(names: readonly string[], options: LockOptions | undefined, waits: boolean): LockRequest {
    const request = toRequest(names[0]!, options, this.#settings.defaults)
    if (waits && request.waitMs > 0)
      for (const name of names) this.#reentry.assertMayWait(name, request.holding, modeOf(request))
    return request
  }

  /** What the caller holds, as far as is known; undefined if that is nothing. */
  #claimsOf(holding: readonly HeldLease[]): (() => readonly Claim[]) | undefined {
    const isOurs = (lease: HeldLease) => lease instanceof LeaseHandle && lease.isOf(this.#leaseContext)
    const around = heldAround()
    if (around.length === 0 && holding.length === 0) return undefined
    const leases = [...around, ...holding].filter(isOurs)
    if (leases.length === 0) return undefined
    return () => leases.filter((lease) => lease.isHeld()).map(({ name, token }) => ({ name, token: `${token}` }))
  }

  /** The hold of a run around the call, if that is to be shared. */
  #enter(name: string, options: RunOptions): RunHold<LeaseHandle<Tx>> | undefined {
    if (!toReenter(options)) return undefined
    const request = toRequest(name, options, this.#settings.defaults)
    this.#assertOpen()
    request.signal?.throwIfAborted()
    const hold = this.#reentry.enter(name, modeOf(request))
    if (hold === undefined || options.holdAtLeast === undefined) return hold
    hold.leave()
    throw new LockError('INVALID_ARGUMENT', 'a body that re-enters does not say holdAtLeast: the outermost run does')
  }

  #leaseOf(granted: Granted, request: LockRequest, session: LiveSession | null): LeaseHandle<Tx> {
    const { owner, sentAt, remainingMs, unconfirmed } = granted
    const { ttlMs, renew, maxHoldMs, atLeastMs } = request
    const hold = toHold(granted)
    const terms = { ttlMs, renew, maxHoldMs, atLeastMs, sentAt, remainingMs, unconfirmed }
    const lease = new LeaseHandle(this.#leaseContext, hold, terms)
    this.#own.prepare()
    const stopListening = session?.onLost((cause) => lease.lose(SESSION_GONE, cause))
    if (stopListening !== undefined) lease.onEnd(stopListening)
    if (unconfirmed) lease.onEnd(() => this.#waiters.ended(owner))
    const { name, token, mode } = lease
    this.#events.emit({ type: 'acquired', name, owner, token, mode, waitedMs: granted.waitedMs })
    if (granted.takeover) this.#events.emit({ type: 'takeover', name, owner, token, mode })
    return lease
  }

  /** What is kept beside the locks: read, or written, before the caller has its leases. Who cannot be told of it gets none. */
  async #furnish(
    leases: readonly LeaseHandle<Tx>[],
    granted: readonly Granted[],
    { metadata }: LockRequest,
    call: Call,
    bound: AnswerBound,
  ): Promise<void> {
    const left = leases.filter(({ slot }, index) => slot === undefined && granted[index]!.checkpointed !== false)
    if (left.length === 0 && metadata === null) return
    try {
      const reading = left.map(async (lease) => {
        lease.payload = toPayload(await this.#process.checkpoint(lease.name))
      })
      const telling = metadata === null ? [] : leases.map((lease) => this.#tell(lease, metadata))
      await bound.race(call, Promise.all([...reading, ...telling]))
    } catch (error) {
      for (const lease of leases) this.#inBackground(`releasing ${JSON.stringify(lease.name)}`, lease.release())
      throw error
    }
  }

  async #tell(lease: LeaseHandle<Tx>, value: string): Promise<void> {
    const { name, owner, token } = lease
    const mark = { kind: 'metadata', name, part: owner, token } as const
    await this.#store.writeMark({ ...mark, value, keepMs: METADATA_KEPT_MS }, true)
    lease.onEnd(() =>
      this.#inBackground(`taking off metadata of ${JSON.stringify(name)}`, this.#store.deleteMark(mark)),
    )
  }

  async #untilAssessed(): Promise<void> {
    if (!this.#assessed) await this.#assess()
  }

  /** Before the first lease, once for all who come meanwhile, which also keeps their order. */
  #assess(): Promise<void> {
    this.#assessing ??= this.#assessOnce(false).finally(() => {
      this.#assessing = undefined
    })
    return this.#assessing
  }

  /**
   * For transactions: beside theirs, which may have the pool's last connection, and once at most, since there may be no other at all.
   * A server that is refused stays so.
   */
  async #assessOutside({ outside }: OwnConnection): Promise<void> {
    if (this.#assessed || this.#triedOutside || this.#store.single) return
    this.#assessingOutside ??= outside(() => this.#assessOnce(true)).finally(() => {
      this.#assessingOutside = undefined
    })
    await this.#assessingOutside
    this.#triedOutside = true
  }

  async #assessOnce(beside: boolean): Promise<void> {
    try {
      const assessment = await this.#store.assess?.(beside)
      if (assessment?.refusal != null) throw assessment.refusal
      // In a session of the pool's, answers may have another shape.
      if (!beside) this.#assessed = true
      for (const message of assessment?.warnings ?? []) this.#warn(message)
    } catch (error) {
      // While the database cannot be asked, the acquire itself tells what is wrong; the next one asks again.
      if (!(error instanceof DatabaseError)) throw error
    }
  }

  /** Nobody awaits a job: what goes wrong is an event, or, if nobody listens, a warning of the process, each once. */
  #failed(during: string, cause: unknown): void {
    if (this.#events.isHeard) {
      this.#events.emit({ type: 'error', during, cause })
      return
    }
    const message = cause instanceof Error ? cause.message : String(cause)
    if (this.#warned.has(`${during}: ${message}`)) return
    this.#warned.add(`${during}: ${message}`)
    const error = cause instanceof Error ? cause : new Error(message)
    process.emitWarning(error, { type: 'RowlockJobWarning', detail: `${during}; locks.on() hears of it as well` })
  }

  /** Each warning once. */
  #warn(message: string): void {
    if (this.#warned.has(message)) return
    this.#warned.add(message)
    this.#events.emit({ type: 'warning', message })
  }

  /** A lease that exists already: renewed now, which shows that it does. */
  #confirm(hold: Hold, request: LockRequest, notHeld: LockLostError): Promise<LeaseHandle<Tx>> {
    this.#assertOpen()
    return this.#calls.run(undefined, async () => {
      const sentAt = performance.now()
      const ttlMs = Math.min(request.ttlMs, request.maxHoldMs)
      const left = hold.slot === undefined ? this.#process.checkpoint(hold.name) : null
      const [renewal, payload] = await Promise.all([this.#process.renew({ ...hold, ttlMs }), left])
      if (renewal.outcome === 'lost') {
        this.#waiters.ended(hold.owner)
        throw notHeld
      }
      const terms = { ...request, remainingMs: renewal.remainingMs, unconfirmed: false, sentAt }
      const lease = new LeaseHandle(this.#leaseContext, hold, terms)
      lease.payload = toPayload(payload)
      lease.onEnd(() => this.#waiters.ended(hold.owner))
      return lease
    })
  }

  async #run<T>(hold: RunHold<LeaseHandle<Tx>>, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T> {
    const lease = hold.lease!
    let result: T
    try {
      result = await hold.call(body)
    } catch (error) {
      if (hold.leave()) await this.#releaseAfterRun(lease)
      throw error
    }
    const stands = hold.leave() ? await this.#releaseAfterRun(lease) : lease.isHeld()
    if (!stands || lease.signal.aborted) {
      throw new LockLostError(
        lease.name,
        'the body finished, but others may have held the lock meanwhile; see result',
        {
          cause: lease.signal.reason,
          result,
        },
      )
    }
    return result
  }

  /** A release that fails is not the body's failure: the lock frees itself at its expiry. */
  async #releaseAfterRun(lease: LeaseHandle<Tx>): Promise<boolean> {
    const wasHeld = lease.isHeld()
    try {
      return await lease.leave()
    } catch (cause) {
      this.#events.emit({ type: 'error', during: `releasing ${JSON.stringify(lease.name)}`, cause })
      return wasHeld && !isLost(cause)
    }
  }

  async #close(): Promise<void> {
    this.#closing.abort(closedError())
    this.#jobs.close()
    this.#resignations.close()
    await this.#calls.cancelAll(closedError())
    const releases = [...this.#leases].map(async (lease) => {
      try {
        await lease.evict('its instance was closed')
      } catch (cause) {
        this.#events.emit({ type: 'error', during: `releasing ${JSON.stringify(lease.name)} on close`, cause })
      }
    })
    await Promise.all(releases)
    this.#heartbeat.stop()
    const bound = new AnswerBound(null, this.#settings.statementTimeoutMs)
    const inTime = async (during: string, work: Promise<unknown>) => {
      try {
        await bound.within(work)
      } catch (cause) {
        this.#events.emit({ type: 'error', during, cause })
      }
    }
    this.#handOffs.close()
    this.#deadlocks.close()
    this.#watches.close()
    await inTime('closing the session that is told of hand-offs', this.#waiters.close())
    await inTime('waiting for what is under way on close', this.#backgroundDone())
    this.#over = true
    await inTime('closing the session', this.#sessions.close())
    await inTime("closing rowlock's own connection", this.#own.close())
    this.#events.clear()
  }

  #inBackground(during: string, work: Promise<unknown>): void {
    const done: Promise<void> = work
      .then(
        () => undefined,
        (cause: unknown) => this.#events.emit({ type: 'error', during, cause }),
      )
      .finally(() => this.#background.delete(done))
    this.#background.add(done)
  }

  /** Work may lead to more of it, as when a hand-off has to be passed on. */
  async #backgroundDone(): Promise<void> {
    while (this.#background.size > 0) await Promise.all(this.#background)
  }

  #assertOpen(): void {
    if (this.#closed !== undefined) throw closedError()
  }
}

/** Of the databases' integers. */
const MOST_TOKEN = 2n ** 63n - 1n
const MOST_SLOT = 2 ** 31 - 1

/** Of a holder that is gone: nobody else takes that off but purge. */
const METADATA_KEPT_MS = 30 * 24 * 60 * 60 * 1000

/** Null is what nobody has left, too. */
function toPayload(json: string | null): unknown {
  return fromJson(json) ?? null
}

function isLost(error: unknown): boolean {
  return error instanceof LockLostError
}

const SESSION_GONE = 'the database session it depends on is gone'

function closedError(): LockError {
  return new LockError('INVALID_ARGUMENT', 'this instance is closed: make another one with createLocks')
}

const ISOLATION_LEVELS = ['read committed', 'repeatable read', 'serializable']

function checkWithinOptions(options: WithinOptions): void {
  checkOptions(options)
  const { isolation } = options
  if (isolation !== undefined && !ISOLATION_LEVELS.includes(isolation)) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `isolation must be one of ${ISOLATION_LEVELS.join(', ')}, not ${JSON.stringify(isolation)}`,
    )
  }
}

function checkLeaseJson(json: LeaseJson): Hold & { ttlMs: number } {
  const { name, owner, token, ttlMs, slot } = json ?? {}
  if (
    typeof owner !== 'string' ||
    !/^[0-9a-f]{32}$/.test(owner) ||
    typeof token !== 'string' ||
    !/^\d{1,16}$/.test(token) ||
    !(slot === undefined || (Number.isSafeInteger(slot) && slot >= 0 && slot <= MOST_SLOT))
  ) {
    throw new LockError(
      'INVALID_ARGUMENT',
      'restore takes what JSON.stringify(lease) made: { name, owner, token, ttlMs }, and slot if it was shared',
    )
  }
  return { ...toHold({ name, owner, token: BigInt(token), ...(slot !== undefined && { slot }) }), ttlMs: toTtl(ttlMs) }
}
