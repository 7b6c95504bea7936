import { hostname } from 'node:os'
import { inspect } from 'node:util'
import { inByteOrder } from '../base/byte-order.ts'
import { type Duration, toMilliseconds } from '../base/duration.ts'
import { LockError } from '../base/errors.ts'
import { toJson } from '../base/json.ts'
import { type Demand, EXCLUSIVE, SHARED } from '../protocol/store.ts'

/** Shared with others who share it, or not at all. */
export type Mode = 'exclusive' | 'shared'

/** How a lock is taken and kept. What is left out comes from `createLocks`, then from the defaults. */
export interface LockOptions {
  /** `'shared'`: beside any number of others who share the lock, and nobody else. Default `'exclusive'`: beside nobody. */
  readonly mode?: Mode | undefined
  /** How long a lease lives without a renewal. Default 30 s; from 10 ms to 24 days. */
  readonly ttl?: Duration | undefined
  /** How long to wait for a lock that is held. Default 10 s; `Infinity` waits for ever. tryAcquire and tryRun never wait. */
  readonly wait?: Duration | undefined
  /** Ends the wait: the call rejects with the signal's reason, and leaves nothing behind. */
  readonly signal?: AbortSignal | undefined
  /** Whether this process keeps renewing the lease until it is released. Default true. */
  readonly renew?: boolean | undefined
  /** The longest time a lease may last, renewals and extensions included. Default: no limit. */
  readonly maxHold?: Duration | undefined
  /**
   * When others may take the lock from a holder that does not release it: once its ttl has run out (`'expiry'`, the
   * default), or also once the holder's database session is gone (`'session'`, PostgreSQL and single-primary MySQL).
   */
  readonly takeover?: 'expiry' | 'session' | undefined
  /**
   * Leases that the caller holds while it waits. To wait for a lock that one of them has is a DeadlockError at once. What the
   * runs around the call hold is known without that.
   */
  readonly holding?: readonly HeldLease[] | undefined
  /** What `inspect` and `list` are to show of the holder: at most 4 KiB of JSON, written by a statement of its own. */
  readonly metadata?: unknown
}

/** What became of a tryRun. */
export type RunOutcome<T> = { readonly ran: true; readonly value: T } | { readonly ran: false }

/** What `holding` has to know of a lease. Any lease will do. */
export interface HeldLease {
  readonly name: string
  readonly owner: string
  readonly token: bigint
  isHeld(): boolean
}

/** How run and tryRun take a lock. */
export interface RunOptions extends LockOptions {
  /**
   * Whether the body shares the lease of a run around the call that holds the lock already, on that one's terms. The last of
   * those bodies to end releases it. LockLostError if that lease is lost. Default false: to wait for it is a DeadlockError.
   */
  readonly reenter?: boolean | undefined
  /**
   * The lock stays taken for that long after it was acquired, though the body has ended: for what must not happen again too
   * soon. `close` and the end of the process leave it taken, until the later of `holdAtLeast` and `ttl`. Not with
   * `takeover: 'session'`, nor for a body that re-enters.
   */
  readonly holdAtLeast?: Duration | undefined
}

/** `mode`, `holding` and `metadata` are said for each call. */
export interface InstanceOptions extends Omit<LockOptions, 'mode' | 'holding' | 'metadata'> {
  /** PostgreSQL schema of rowlock's tables. Default: the one that the connection's search_path leads to, looked up once. */
  readonly schema?: string | undefined
  /** Default `rowlock_`. */
  readonly tablePrefix?: string | undefined
  /** Who we are, for `inspect`. Default: host:pid. At most 255 bytes. */
  readonly holder?: string | undefined
  /** How many callers may wait for one lock, in all processes together. More are refused: QueueFullError. Default 10,000. */
  readonly maxWaiters?: number | undefined
  /** How long the database may take to answer before an operation fails as DATABASE, its outcome unknown. Default 5 s. */
  readonly statementTimeout?: Duration | undefined
  /**
   * Whether rowlock keeps a connection of its own beside the pool, by which leases are renewed and waiters served while all of
   * the pool's connections are in transactions. Default true; false for where each process is short-lived (serverless).
   */
  readonly ownConnection?: boolean | undefined
}

/** Checked and complete. */
export interface Terms {
  readonly ttlMs: number
  readonly waitMs: number
  readonly signal: AbortSignal | undefined
  readonly renew: boolean
  readonly maxHoldMs: number
  readonly takeover: 'expiry' | 'session'
}

/** What is asked for. */
export interface LockRequest extends Terms, Demand {
  readonly name: string
  readonly holding: readonly HeldLease[]
  /** As JSON; null: none. */
  readonly metadata: string | null
  /** For how long it stays taken although it is not needed any more. */
  readonly atLeastMs: number
}

export interface InstanceSettings {
  readonly holder: string
  readonly maxWaiters: number
  readonly statementTimeoutMs: number
  readonly ownConnection: boolean
  readonly defaults: Terms
}

const NOTHING: readonly HeldLease[] = []
/** Shorter leases would be eaten up by round trips and timer resolution. */
const MIN_TTL_MS = 10
const MAX_NAME_BYTES = 255
/** Of each holder, since `list` shows those of all. */
const MOST_METADATA_BYTES = 4096
/** As many as go in one statement. */
export const MOST_NAMES = 1000
/** A queue is part of the lock's row. Callers of one process take little room there, strangers in turn some 200 bytes each. */
const DEFAULT_MAX_WAITERS = 10_000
const MOST_WAITERS = 1_000_000
const DEFAULT_STATEMENT_TIMEOUT = '5s'
const DEFAULT_TERMS: Terms = {
  ttlMs: 30_000,
  waitMs: 10_000,
  signal: undefined,
  renew: true,
  maxHoldMs: Number.POSITIVE_INFINITY,
  takeover: 'expiry',
}

export function toSettings(options: InstanceOptions): InstanceSettings {
  checkOptions(options)
  refuseMode(options, 'createLocks', 'say it where the lock is taken')
  const {
    holder = `${hostname()}:${process.pid}`,
    statementTimeout = DEFAULT_STATEMENT_TIMEOUT,
    maxWaiters = DEFAULT_MAX_WAITERS,
    ownConnection = true,
  } = options
  checkText('holder', holder)
  if (typeof ownConnection !== 'boolean') {
    throw new LockError('INVALID_ARGUMENT', `ownConnection must be true or false, not ${ownConnection}`)
  }
  if (!Number.isSafeInteger(maxWaiters) || maxWaiters < 1 || maxWaiters > MOST_WAITERS) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `maxWaiters must be a whole number from 1 to ${MOST_WAITERS}, not ${shown(maxWaiters)}`,
    )
  }
  return {
    holder,
    maxWaiters,
    ownConnection,
    statementTimeoutMs: toMilliseconds('statementTimeout', statementTimeout, { min: 1 }),
    defaults: { ...DEFAULT_TERMS, ...toTerms(options) },
  }
}

export function toRequest(name: string, options: LockOptions | undefined, defaults: Terms): LockRequest {
  const { ttlMs, waitMs, signal, renew, maxHoldMs, takeover } =
    options === undefined ? defaults : { ...defaults, ...toTerms(options) }
  const holding = options?.holding === undefined ? NOTHING : checkHolding(options.holding)
  const demand = toMode(options?.mode) === 'shared' ? SHARED_LOCK : EXCLUSIVE
  const metadata = toJson('metadata', options?.metadata, MOST_METADATA_BYTES)
  return {
    name: checkName(name),
    holding,
    metadata,
    atLeastMs: 0,
    ttlMs,
    waitMs,
    signal,
    renew,
    maxHoldMs,
    takeover,
    ...demand,
  }
}

export function modeOf({ weight }: LockRequest): Mode {
  return weight === null ? 'exclusive' : 'shared'
}

/** A share of a lock. */
const SHARED_LOCK = { weight: SHARED, permits: null } as const

function toMode(mode: Mode | undefined): Mode {
  if (mode === undefined || mode === 'exclusive' || mode === 'shared') return mode ?? 'exclusive'
  throw new LockError('INVALID_ARGUMENT', `mode must be 'exclusive' or 'shared', not ${shown(mode)}`)
}

/** Where it would have no meaning, it must not seem to have one. */
export function refuseMode(options: object, where: string, instead: string): void {
  if ('mode' in options && options.mode !== undefined) {
    throw new LockError('INVALID_ARGUMENT', `${where} takes no mode: ${instead}`)
  }
}

/** Permits, or a weight: MySQL's and PostgreSQL's integers end there. */
const MOST_PERMITS = 2 ** 31 - 1

export function toPermits(what: string, value: number): number {
  if (Number.isSafeInteger(value) && value >= 1 && value <= MOST_PERMITS) return value
  throw new LockError(
    'INVALID_ARGUMENT',
    `${what} must be a whole number from 1 to ${MOST_PERMITS}, not ${shown(value)}`,
  )
}

/** So that a number in text does not look like one. */
function shown(value: unknown): string {
  return inspect(value, { depth: 0 })
}

export function toReenter(options: RunOptions | undefined): boolean {
  const reenter = options?.reenter
  if (reenter === undefined) return false
  if (typeof reenter !== 'boolean') {
    throw new LockError('INVALID_ARGUMENT', `reenter must be true or false, not ${reenter}`)
  }
  return reenter
}

/** The same request, of a run that says for how long the lock is to stay taken. */
export function withHoldAtLeast(request: LockRequest, options: RunOptions | undefined): LockRequest {
  const { holdAtLeast } = options ?? {}
  if (holdAtLeast === undefined) return request
  const atLeastMs = toMilliseconds('holdAtLeast', holdAtLeast)
  if (request.takeover === 'session') {
    throw new LockError(
      'INVALID_ARGUMENT',
      "holdAtLeast outlives this process, and takeover: 'session' gives the lock away with it: use 'expiry'",
    )
  }
  if (atLeastMs > request.maxHoldMs) {
    throw new LockError('INVALID_ARGUMENT', 'holdAtLeast must not be longer than maxHold')
  }
  return { ...request, atLeastMs }
}

function checkHolding(holding: readonly HeldLease[]): readonly HeldLease[] {
  if (!Array.isArray(holding) || !holding.every(isLease)) {
    throw new LockError(
      'INVALID_ARGUMENT',
      'holding must be an array of leases: { holding: [lease] }, or { holding: several.leases } of what acquireAll gave',
    )
  }
  return holding
}

function isLease(lease: HeldLease | null | undefined): boolean {
  return typeof lease?.name === 'string' && typeof lease.isHeld === 'function'
}

/** Only what is undefined was left out: null is a mistake, and found as one. */
function toTerms(options: LockOptions): Partial<Terms> {
  checkOptions(options)
  const { ttl, wait, renew, takeover, signal, maxHold } = options
  const terms: { -readonly [Key in keyof Terms]?: Terms[Key] } = {}
  if (ttl !== undefined) terms.ttlMs = toTtl(ttl)
  if (wait !== undefined) terms.waitMs = wait === Number.POSITIVE_INFINITY ? wait : toMilliseconds('wait', wait)
  if (maxHold !== undefined) terms.maxHoldMs = toMilliseconds('maxHold', maxHold, { min: MIN_TTL_MS })
  if (renew !== undefined) {
    if (typeof renew !== 'boolean') throw new LockError('INVALID_ARGUMENT', `renew must be true or false, not ${renew}`)
    terms.renew = renew
  }
  if (takeover !== undefined) {
    if (takeover !== 'expiry' && takeover !== 'session') {
      throw new LockError('INVALID_ARGUMENT', `takeover must be 'expiry' or 'session', not ${shown(takeover)}`)
    }
    terms.takeover = takeover
  }
  if (signal !== undefined) {
    if (!(signal instanceof AbortSignal)) throw new LockError('INVALID_ARGUMENT', 'signal must be an AbortSignal')
    terms.signal = signal
  }
  return terms
}

export function checkOptions(options: object): void {
  if (typeof options !== 'object' || options === null) {
    throw new LockError('INVALID_ARGUMENT', `options must be an object, not ${String(options)}`)
  }
}

export function checkBody(body: unknown): void {
  if (typeof body !== 'function') {
    throw new LockError(
      'INVALID_ARGUMENT',
      'run and tryRun take options and a function as their last arguments: run(name, {}, async (lease) => ...), or semaphore.run({}, async (lease) => ...)',
    )
  }
}

export function toTtl(ttl: Duration): number {
  return toMilliseconds('ttl', ttl, { min: MIN_TTL_MS })
}

export function checkName(name: string): string {
  checkText('the name of a lock', name)
  if (name === '') throw new LockError('INVALID_ARGUMENT', 'the name of a lock must not be empty')
  return name
}

/** Each once, in byte order. */
export function toNames(names: readonly string[]): string[] {
  if (!Array.isArray(names)) {
    throw new LockError('INVALID_ARGUMENT', `the names of several locks must be an array, not ${typeof names}`)
  }
  const distinct = new Set<string>()
  for (const name of names) distinct.add(checkName(name))
  if (distinct.size < 1 || distinct.size > MOST_NAMES) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `from 1 to ${MOST_NAMES} locks can be acquired together, not ${distinct.size}`,
    )
  }
  return inByteOrder(distinct)
}

/** Engines differ in what they make of other text: they truncate it, collate it, or replace what they do not understand. */
export function checkText(what: string, text: string): void {
  if (typeof text !== 'string') throw new LockError('INVALID_ARGUMENT', `${what} must be a string, not ${typeof text}`)
  if (!text.isWellFormed()) {
    throw new LockError('INVALID_ARGUMENT', `${what} has a lone surrogate, which has no UTF-8 form`)
  }
  if (text.includes('\0'))
    throw new LockError('INVALID_ARGUMENT', `${what} has a NUL character, which PostgreSQL refuses`)
  const bytes = Buffer.byteLength(text)
  if (bytes > MAX_NAME_BYTES) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `${what} is ${bytes} bytes long; the limit is ${MAX_NAME_BYTES} bytes of UTF-8`,
    )
  }
}

/**
 * ORMs that keep their transaction in AsyncLocalStorage give a function. The transactions of Knex and postgres.js can be
 * called, too, but take an argument: a table's name, a template.
 */
export function currentTransaction<Tx>(tx: Tx | (() => Tx)): Tx {
  if (typeof tx !== 'function' || tx.length > 0) return tx as Tx
  const current = (tx as () => Tx)()
  if (current == null)
    throw new LockError('INVALID_ARGUMENT', 'the function that was passed for tx knows of no transaction')
  return current
}
