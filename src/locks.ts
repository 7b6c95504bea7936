import { setMaxListeners } from 'node:events'
import { acquire, type Granted } from './acquire.ts'
import type { MemoryAdapter, SqlAdapter } from './adapters/adapter.ts'
import { type Duration, toMilliseconds } from './duration.ts'
import { LockError, LockLostError } from './errors.ts'
import { Events, type LockListener } from './events.ts'
import { Heartbeat } from './heartbeat.ts'
import { type Lease, LeaseHandle, type LeaseJson, type LeaseTerms, untilUnlocked } from './lease.ts'
import {
  checkName,
  checkOptions,
  checkText,
  type InstanceOptions,
  type InstanceSettings,
  type LockOptions,
  type LockRequest,
  toRequest,
  toSettings,
  toTtl,
} from './request.ts'
import { bounded, patient } from './retry.ts'
import { Sessions } from './session.ts'
import { type MemoryTransaction, memoryStore } from './store/memory.ts'
import { mysqlStore } from './store/mysql.ts'
import { postgresStore } from './store/postgres.ts'
import { sqliteStore } from './store/sqlite.ts'
import type { Hold, LockState, Store } from './store/store.ts'
import {
  confirmationFailed,
  currentTransaction,
  Transaction,
  type TransactionContext,
  type TransactionLocks,
} from './transaction.ts'
import { Polling } from './wake/poll.ts'
import type { WakeUps } from './wake/wake.ts'

/** What `createLocks` takes: made by fromPg, fromKysely, fromMemory and the like. */
export type Adapter<Tx> = SqlAdapter<Tx> | MemoryAdapter

export interface LockInfo extends LockState {
  /** Callers of this instance that wait for the lock. */
  readonly waiters: number
}

/** What became of a tryRun. */
export type RunOutcome<T> = { readonly ran: true; readonly value: T } | { readonly ran: false }

/** Locks of one database, as one process uses them. Make one for the life of the process, and close it at its end. */
export interface Locks<Tx> {
  /**
   * Makes or updates rowlock's tables; answers the names of the migrations that it applied, which are none if all was up to
   * date. Safe to call from any number of processes at once, and again.
   */
  migrate(): Promise<string[]>
  /** Resolves with a lease, or rejects with LockTimeoutError after `wait`, or with the signal's reason. */
  acquire(name: string, options?: LockOptions): Promise<Lease<Tx>>
  /** Resolves with a lease, or with null if somebody holds the lock. Never waits for it. */
  tryAcquire(name: string, options?: LockOptions): Promise<Lease<Tx> | null>
  /**
   * Runs `body` under a lease and releases it afterwards. What the body rejects with comes through unchanged; a body that
   * resolved although its lease was lost rejects with LockLostError, which carries the `result`.
   */
  run<T>(name: string, options: LockOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T>
  /** As run, but does not run the body if somebody holds the lock. */
  tryRun<T>(name: string, options: LockOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<RunOutcome<T>>
  /** Locks in a transaction of the caller's, or in the one that a function finds when it is called. */
  within(tx: Tx | (() => Tx)): TransactionLocks<Tx>
  /**
   * A lease from its JSON form, in this or another process; from now on renewed here, too. LockLostError if it is not held.
   */
  restore(json: LeaseJson, options?: Pick<LockOptions, 'renew' | 'maxHold'>): Promise<Lease<Tx>>
  /** Who holds a lock, or null when nobody does. */
  inspect(name: string): Promise<LockInfo | null>
  /** All locks that are held, in byte order of their names. */
  list(options?: { readonly prefix?: string }): Promise<LockInfo[]>
  /**
   * Takes the lock from whoever holds it: true, or false if nobody did. Raises the token, so that the evicted holder's next
   * guarded write fails. Waits for a guarded transaction that is under way; LOCK_TIMEOUT if that takes longer than `wait`.
   */
  forceRelease(name: string, options?: { readonly wait?: Duration }): Promise<boolean>
  /** Deletes the rows of locks that nobody has held for `idleFor`; answers how many. Their tokens will not be reissued. */
  purge(options: { readonly idleFor: Duration }): Promise<number>
  /** Calls `listener` for each event of this instance. Returns the function that unsubscribes. */
  on(listener: LockListener): () => void
  /**
   * Ends all waits, releases the leases of this instance, whose signals abort first, and stops its timers. The pool or
   * handle stays the caller's.
   */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** Sets up locks on a database. Does not connect yet. */
export function createLocks(adapter: MemoryAdapter, options?: InstanceOptions): Locks<MemoryTransaction>
export function createLocks<Tx>(adapter: Adapter<Tx>, options?: InstanceOptions): Locks<Tx>
export function createLocks<Tx>(adapter: Adapter<Tx>, options: InstanceOptions = {}): Locks<Tx> {
  const settings = toSettings(options)
  return new Instance<Tx>(patient(createStore(adapter, options), settings.statementTimeoutMs), settings, options)
}

function createStore<Tx>(adapter: Adapter<Tx>, naming: InstanceOptions): Store<Tx> {
  switch (adapter?.engine) {
    case 'postgres':
      return postgresStore(adapter, naming)
    case 'mysql':
      return mysqlStore(adapter, naming)
    case 'sqlite':
      return sqliteStore(adapter, naming)
    case 'memory':
      return memoryStore(adapter.database) as unknown as Store<Tx>
    default:
      throw new LockError(
        'INVALID_ARGUMENT',
        'createLocks takes an adapter: fromPg(pool), fromMysql2(pool), fromBetterSqlite3(database), fromKysely(db), fromMemory(), ...',
      )
  }
}

class Instance<Tx> implements Locks<Tx> {
  readonly #store: Store<Tx>
  readonly #settings: InstanceSettings
  readonly #defaults: LockOptions
  readonly #events = new Events()
  readonly #heartbeat: Heartbeat
  readonly #wakeUps: WakeUps
  readonly #sessions: Sessions
  readonly #leases = new Set<LeaseHandle<Tx>>()
  /** Calls that may yet end in a lease. */
  readonly #underWay = new Set<Promise<unknown>>()
  readonly #background = new Set<Promise<void>>()
  readonly #closing = new AbortController()
  #closed: Promise<void> | undefined

  constructor(store: Store<Tx>, settings: InstanceSettings, defaults: LockOptions) {
    this.#store = store
    this.#settings = settings
    this.#defaults = defaults
    this.#heartbeat = new Heartbeat((holds) => store.renew(holds))
    this.#wakeUps = new Polling((names) => store.free(names))
    this.#sessions = new Sessions((onLost) => store.openSession(onLost))
    // Every call under way listens to it.
    setMaxListeners(0, this.#closing.signal)
  }

  async migrate(): Promise<string[]> {
    this.#assertOpen()
    return this.#store.migrate()
  }

  async acquire(name: string, options?: LockOptions): Promise<Lease<Tx>> {
    const request = toRequest(name, options, this.#defaults)
    // Only a try answers null.
    return (await this.#leasing(this.#acquire(request, request.waitMs))) as LeaseHandle<Tx>
  }

  async tryAcquire(name: string, options?: LockOptions): Promise<Lease<Tx> | null> {
    return this.#leasing(this.#acquire(toRequest(name, options, this.#defaults), null))
  }

  async run<T>(name: string, options: LockOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T> {
    checkBody(body)
    return this.#run(await this.acquire(name, options), body)
  }

  async tryRun<T>(
    name: string,
    options: LockOptions,
    body: (lease: Lease<Tx>) => Promise<T> | T,
  ): Promise<RunOutcome<T>> {
    checkBody(body)
    const lease = await this.tryAcquire(name, options)
    return lease === null ? { ran: false } : { ran: true, value: await this.#run(lease, body) }
  }

  within(tx: Tx | (() => Tx)): TransactionLocks<Tx> {
    this.#assertOpen()
    const context: TransactionContext<Tx> = {
      store: this.#store,
      wakeUps: this.#wakeUps,
      holder: this.#settings.holder,
      closing: this.#closing.signal,
      request: (name, options) => toRequest(name, options, this.#defaults),
      confirm: (hold, request) => this.#leasing(this.#confirm(hold, request, confirmationFailed(hold.name))),
    }
    return new Transaction(context, currentTransaction(tx))
  }

  async restore(json: LeaseJson, options: Pick<LockOptions, 'renew' | 'maxHold'> = {}): Promise<Lease<Tx>> {
    const { owner, token, ttlMs } = checkLeaseJson(json)
    const request = toRequest(json.name, { ...options, ttl: ttlMs }, this.#defaults)
    const hold = { name: request.name, owner, token }
    return this.#leasing(this.#confirm(hold, request, new LockLostError(json.name, 'it is not held any more')))
  }

  async inspect(name: string): Promise<LockInfo | null> {
    checkName(name)
    this.#assertOpen()
    const state = await this.#store.inspect(name)
    return state === null ? null : this.#toInfo(state)
  }

  async list(options: { readonly prefix?: string } = {}): Promise<LockInfo[]> {
    checkOptions(options)
    const { prefix = '' } = options
    checkText('prefix', prefix)
    this.#assertOpen()
    return (await this.#store.list(prefix)).map((state) => this.#toInfo(state))
  }

  async forceRelease(name: string, options: { readonly wait?: Duration } = {}): Promise<boolean> {
    const { waitMs } = toRequest(name, options, this.#defaults)
    this.#assertOpen()
    let forced = false
    const done = await untilUnlocked(async () => {
      const answer = await this.#store.forceRelease(name)
      forced = answer === 'released'
      return answer !== 'locked'
    }, waitMs)
    if (!done) {
      throw new LockError(
        'LOCK_TIMEOUT',
        `the lock ${JSON.stringify(name)} could not be force-released within ${waitMs} ms: a guarded transaction is still open`,
      )
    }
    if (forced) {
      this.#events.emit({ type: 'forced', name })
      this.#wakeUps.hint(name)
    }
    return forced
  }

  async purge(options: { readonly idleFor: Duration }): Promise<number> {
    checkOptions(options)
    const idleMs = toMilliseconds('idleFor', options.idleFor, { max: Number.MAX_SAFE_INTEGER })
    this.#assertOpen()
    return this.#store.purge(idleMs)
  }

  on(listener: LockListener): () => void {
    return this.#events.on(listener)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #acquire(request: LockRequest, waitMs: number | null): Promise<LeaseHandle<Tx> | null> {
    this.#assertOpen()
    request.signal?.throwIfAborted()
    const session = request.takeover === 'session' ? await this.#sessions.current() : null
    let granted: Granted | null
    try {
      granted = await acquire(this.#acquireContext(), { ...request, waitMs }, session?.id ?? null)
    } catch (error) {
      if (error instanceof LockError && error.code === 'LOCK_TIMEOUT') {
        this.#events.emit({ type: 'timeout', name: request.name, waitedMs: request.waitMs })
      }
      throw error
    }
    if (granted === null) return null
    const { sentAt, waitedMs, takeover, ...hold } = granted
    const lease = this.#lease(hold, { ...request, remainingMs: Math.min(request.ttlMs, request.maxHoldMs), sentAt })
    const stopListening = session?.onLost((cause) => lease.lose('the database session it depends on is gone', cause))
    if (stopListening !== undefined) lease.onEnd(stopListening)
    this.#events.emit({ type: 'acquired', ...hold, waitedMs })
    if (takeover) this.#events.emit({ type: 'takeover', ...hold })
    return lease
  }

  async #leasing<T>(call: Promise<T>): Promise<T> {
    this.#underWay.add(call)
    try {
      return await call
    } finally {
      this.#underWay.delete(call)
    }
  }

  /** A lease that exists already: renewed now, which shows that it does. */
  async #confirm(hold: Hold, request: LockRequest, notHeld: LockLostError): Promise<LeaseHandle<Tx>> {
    this.#assertOpen()
    const sentAt = performance.now()
    const [renewal] = await this.#store.renew([{ ...hold, ttlMs: Math.min(request.ttlMs, request.maxHoldMs) }])
    if (renewal?.outcome === 'lost') throw notHeld
    return this.#lease(hold, { ...request, remainingMs: renewal!.remainingMs, sentAt })
  }

  #lease(hold: Hold, terms: LeaseTerms): LeaseHandle<Tx> {
    const context = {
      store: this.#store,
      heartbeat: this.#heartbeat,
      events: this.#events,
      lockedRowMs: this.#settings.statementTimeoutMs,
      onReleased: () => this.#wakeUps.hint(hold.name),
    }
    const lease = new LeaseHandle<Tx>(context, hold, terms)
    this.#leases.add(lease)
    lease.onEnd(() => this.#leases.delete(lease))
    return lease
  }

  async #run<T>(lease: Lease<Tx>, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T> {
    let result: T
    try {
      result = await body(lease)
    } catch (error) {
      await this.#releaseAfterRun(lease)
      throw error
    }
    if (!(await this.#releaseAfterRun(lease)) || lease.signal.aborted) {
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
  async #releaseAfterRun(lease: Lease<Tx>): Promise<boolean> {
    const wasHeld = lease.isHeld()
    try {
      return await lease.release()
    } catch (cause) {
      this.#events.emit({ type: 'error', during: `releasing ${JSON.stringify(lease.name)}`, cause })
      return wasHeld
    }
  }

  async #close(): Promise<void> {
    this.#closing.abort(closedError())
    await Promise.allSettled(this.#underWay)
    const releases = [...this.#leases].map(async (lease) => {
      try {
        await lease.evict('its instance was closed')
      } catch (cause) {
        this.#events.emit({ type: 'error', during: `releasing ${JSON.stringify(lease.name)} on close`, cause })
      }
    })
    await Promise.all(releases)
    this.#heartbeat.stop()
    this.#wakeUps.close()
    try {
      await bounded(Promise.all(this.#background), this.#settings.statementTimeoutMs)
    } catch (cause) {
      this.#events.emit({ type: 'error', during: 'waiting for what is under way on close', cause })
    }
    try {
      await this.#sessions.close()
    } catch (cause) {
      this.#events.emit({ type: 'error', during: 'closing the session', cause })
    }
    this.#events.clear()
  }

  #acquireContext() {
    return {
      store: this.#store,
      wakeUps: this.#wakeUps,
      holder: this.#settings.holder,
      statementTimeoutMs: this.#settings.statementTimeoutMs,
      closing: this.#closing.signal,
      background: (during: string, work: Promise<unknown>) => this.#inBackground(during, work),
    }
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

  #toInfo(state: LockState): LockInfo {
    return { ...state, waiters: this.#wakeUps.waiting(state.name) }
  }

  #assertOpen(): void {
    if (this.#closed !== undefined) throw closedError()
  }
}

function closedError(): LockError {
  return new LockError('INVALID_ARGUMENT', 'this instance is closed: make another one with createLocks')
}

function checkBody(body: unknown): void {
  if (typeof body !== 'function') {
    throw new LockError(
      'INVALID_ARGUMENT',
      'run and tryRun take a name, options and a function: run(name, {}, async (lease) => ...)',
    )
  }
}

function checkLeaseJson(json: LeaseJson): { owner: string; token: bigint; ttlMs: number } {
  const { owner, token, ttlMs } = json ?? {}
  if (
    typeof owner !== 'string' ||
    !/^[0-9a-f]{32}$/.test(owner) ||
    typeof token !== 'string' ||
    !/^\d{1,16}$/.test(token)
  ) {
    throw new LockError(
      'INVALID_ARGUMENT',
      'restore takes what JSON.stringify(lease) made: { name, owner, token, ttlMs }',
    )
  }
  return { owner, token: BigInt(token), ttlMs: toTtl(ttlMs) }
}
