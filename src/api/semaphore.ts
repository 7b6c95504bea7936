import type { Duration } from '../base/duration.ts'
import { LockError } from '../base/errors.ts'
import { untilUnlocked } from '../base/timing.ts'
import type { HandOffs } from '../process/hand-offs.ts'
import { misuse } from '../process/misuse.ts'
import type { Store } from '../protocol/store.ts'
import type { Lease, LeaseHandle } from './lease.ts'
import {
  checkBody,
  checkName,
  checkOptions,
  type LockOptions,
  type LockRequest,
  type RunOutcome,
  refuseMode,
  toPermits,
} from './options.ts'

export interface SemaphoreOptions {
  /**
   * How many there are, if the database does not know the semaphore yet. It keeps the number that it was first opened with
   * until somebody calls `resize`; who opens it with another one gets a `warning` event.
   */
  readonly permits: number
  /** Whether another number in the database is an error: INVALID_ARGUMENT on each call. Default false. */
  readonly strict?: boolean | undefined
}

/** How permits are taken and kept. */
export interface PermitOptions extends Omit<LockOptions, 'mode'> {
  /** How many of them. Default 1. INVALID_ARGUMENT if there are not that many. */
  readonly weight?: number | undefined
}

/** Permits that can be held by several at once. Callers get them in the order of their calls, heavy ones included. */
export interface Semaphore<Tx> {
  readonly name: string
  /** Resolves with a lease on `weight` permits, or rejects with LockTimeoutError after `wait`, or with the signal's reason. */
  acquire(options?: PermitOptions): Promise<Lease<Tx>>
  /** Resolves with a lease, or with null if there are not so many permits left, or others wait for them. */
  tryAcquire(options?: PermitOptions): Promise<Lease<Tx> | null>
  /** Runs `body` under a lease and releases it afterwards, as `locks.run` does. */
  run<T>(options: PermitOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T>
  /** As run, but does not run the body if there are not so many permits left, or others wait for them. */
  tryRun<T>(options: PermitOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<RunOutcome<T>>
  /**
   * Changes how many permits there are, for everybody, and gives what is new to those who wait. What is held stays held: while that is more than there
   * are, nobody gets any. Those who wait for more than there are: INVALID_ARGUMENT. LOCK_TIMEOUT if a transaction keeps the
   * row of the semaphore locked for longer than `wait`.
   */
  resize(permits: number, options?: { readonly wait?: Duration | undefined }): Promise<void>
  /** How many permits nobody holds at this moment. Others may be waiting for them. */
  available(): Promise<number>
}

export interface SemaphoreContext<Tx> {
  readonly store: Store<Tx>
  readonly handOffs: HandOffs
  request(name: string, options: LockOptions | undefined): LockRequest
  /** `permits`: how many there are, as soon as the database has said that. */
  acquire(request: LockRequest, waits: boolean, permits: () => Promise<number>): Promise<LeaseHandle<Tx> | null>
  run<T>(lease: LeaseHandle<Tx>, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T>
  /** Each message once. */
  warn(message: string): void
  assertOpen(): void
  /** Rejects if the server is known not to keep the promises. */
  assessed(): Promise<void>
}

export class PermitSemaphore<Tx> implements Semaphore<Tx> {
  readonly name: string
  readonly #context: SemaphoreContext<Tx>
  readonly #strict: boolean
  /** As this process was told last. */
  #permits: number
  #opening: Promise<void> | undefined

  constructor(context: SemaphoreContext<Tx>, name: string, options: SemaphoreOptions) {
    checkOptions(options)
    const { permits, strict = false } = options
    if (typeof strict !== 'boolean') {
      throw new LockError('INVALID_ARGUMENT', `strict must be true or false, not ${strict}`)
    }
    this.name = checkName(name)
    this.#context = context
    this.#strict = strict
    this.#permits = toPermits('permits', permits)
  }

  acquire(options?: PermitOptions): Promise<Lease<Tx>> {
    return this.#acquireInTurn(options)
  }

  tryAcquire(options?: PermitOptions): Promise<Lease<Tx> | null> {
    return this.#acquire(options, false)
  }

  async run<T>(options: PermitOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T> {
    checkBody(body)
    return this.#context.run(await this.#acquireInTurn(options), body)
  }

  async tryRun<T>(options: PermitOptions, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<RunOutcome<T>> {
    checkBody(body)
    const lease = await this.#acquire(options, false)
    return lease === null ? { ran: false } : { ran: true, value: await this.#context.run(lease, body) }
  }

  async resize(permits: number, options: { readonly wait?: Duration | undefined } = {}): Promise<void> {
    const wanted = toPermits('permits', permits)
    const { waitMs } = this.#context.request(this.name, options)
    this.#context.assertOpen()
    await this.#context.assessed()
    const done = await untilUnlocked(async () => {
      const outcome = await this.#context.handOffs.resize(this.name, wanted)
      if (outcome === 'lock') throw this.#isLock()
      return outcome !== 'locked'
    }, waitMs)
    if (!done) {
      throw new LockError(
        'LOCK_TIMEOUT',
        `the semaphore ${JSON.stringify(this.name)} could not be resized within ${waitMs} ms: a transaction keeps its row locked`,
      )
    }
    this.#permits = wanted
    this.#opening = Promise.resolve()
  }

  async available(): Promise<number> {
    this.#context.assertOpen()
    await this.#opened()
    const available = await this.#context.store.available(this.name)
    if (available === 'lock') throw this.#isLock()
    return available ?? this.#permits
  }

  /** Null is the answer to a try, and this one waits. */
  #acquireInTurn(options: PermitOptions | undefined): Promise<LeaseHandle<Tx>> {
    return this.#acquire(options, true) as Promise<LeaseHandle<Tx>>
  }

  async #acquire(options: PermitOptions = {}, waits: boolean): Promise<LeaseHandle<Tx> | null> {
    const { weight = 1, ...rest } = checkPermitOptions(options)
    const request = this.#context.request(this.name, rest)
    const asked = toPermits('weight', weight)
    const permits = async () => {
      await this.#opened()
      return this.#permits
    }
    return this.#context.acquire({ ...request, weight: asked, permits: this.#permits }, waits, permits)
  }

  /** Asks the database once how many permits there are; again if that failed. */
  #opened(): Promise<void> {
    this.#opening ??= this.#open().catch((error: unknown) => {
      this.#opening = undefined
      throw error
    })
    return this.#opening
  }

  async #open(): Promise<void> {
    const { store, warn, assessed } = this.#context
    await assessed()
    const wanted = this.#permits
    const kind = await store.openSemaphore(this.name, wanted)
    if (kind === 'lock') throw this.#isLock()
    if (kind.permits === wanted) return
    const differs = `the semaphore ${JSON.stringify(this.name)} has ${kind.permits} permits in the database, not ${wanted}`
    if (this.#strict) {
      throw new LockError('INVALID_ARGUMENT', `${differs}: open it with that number, or change it with resize()`)
    }
    this.#permits = kind.permits
    warn(`${differs}: the number in the database counts until somebody calls resize()`)
  }

  #isLock(): LockError {
    return misuse(this.name, { weight: 1, permits: this.#permits }, 'lock')
  }
}

function checkPermitOptions(options: PermitOptions): PermitOptions {
  checkOptions(options)
  if ('holdAtLeast' in options && options.holdAtLeast !== undefined) {
    throw new LockError('INVALID_ARGUMENT', 'a semaphore takes no holdAtLeast: say it in locks.run')
  }
  refuseMode(options, 'a semaphore', 'permits are shared with those who hold the others')
  return options
}
