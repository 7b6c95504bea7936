import { randomBytes } from 'node:crypto'
import { DatabaseError, LockTimeoutError } from './errors.ts'
import { untilUnlocked } from './lease.ts'
import type { LockRequest } from './request.ts'
import { noAnswer, sleep } from './retry.ts'
import type { Attempt, AttemptResult, Hold, Store } from './store/store.ts'
import type { Waiter, WakeUps } from './wake/wake.ts'

export interface AcquireContext {
  readonly store: Pick<Store<never>, 'acquire' | 'release'>
  readonly wakeUps: WakeUps
  readonly holder: string
  readonly statementTimeoutMs: number
  /** Ends every wait of this instance when it closes; the reason is the error that callers get. */
  readonly closing: AbortSignal
  /** Work that goes on after the caller has its answer. `close` waits for it. */
  background(during: string, work: Promise<unknown>): void
}

export interface Granted extends Hold {
  readonly takeover: boolean
  /** performance.now() from before the granting request was sent. */
  readonly sentAt: number
  readonly waitedMs: number
}

/** Attempts that get no answer are repeated at least this often, however short the wait. */
const TRIES_AGAINST_FAILURES = 3
const FIRST_BACKOFF_MS = 50
const LONGEST_BACKOFF_MS = 1000

/**
 * The one waiting loop: attempt, and if somebody holds the lock, wait for a wake-up, the deadline or an abort.
 * Resolves with null if `request.waitMs` is null (a try) and somebody holds the lock.
 */
export async function acquire(
  context: AcquireContext,
  request: Omit<LockRequest, 'waitMs'> & { readonly waitMs: number | null },
  session: string | null,
): Promise<Granted | null> {
  const started = performance.now()
  const deadline = started + (request.waitMs ?? 0)
  const cancel = followSignals(request.signal, context.closing)
  // One owner id for all attempts: one that was granted unheard is recognised, and leaves no ghost.
  const owner = randomBytes(16).toString('hex')
  const attempts = new Attempts(context, {
    name: request.name,
    owner,
    session,
    ttlMs: Math.min(request.ttlMs, request.maxHoldMs),
    holder: context.holder,
  })
  let waiter: Waiter | undefined
  let failures = 0
  let unexplained = 0
  let holder: string | null = null

  try {
    cancel.signal.throwIfAborted()
    for (;;) {
      try {
        const sentAt = performance.now()
        const result = await attempts.next(cancel.signal)
        if (result.granted) {
          attempts.won = true
          const { name } = request
          const { token, takeover } = result
          return { name, owner, token, takeover, sentAt, waitedMs: performance.now() - started }
        }
        failures = 0
        holder = result.holder
        // Nobody was seen to hold it, as when its row was purged at that very moment: look again, once.
        if (holder === null && ++unexplained === 1) continue
      } catch (error) {
        failures++
        const inTime = performance.now() < deadline || failures < TRIES_AGAINST_FAILURES
        if (!(error instanceof DatabaseError) || error.failure === 'other' || !inTime) throw error
        await sleep(backoff(failures), cancel.signal)
        continue
      }
      if (request.waitMs === null) return null
      if (performance.now() >= deadline)
        throw new LockTimeoutError(request.name, performance.now() - started, holder ?? undefined)
      waiter ??= context.wakeUps.wait(request.name)
      await awaken(waiter, deadline, cancel.signal)
    }
  } finally {
    waiter?.stop()
    attempts.finish()
    cancel.stop()
  }
}

/**
 * Sends attempts, and gives back what one was granted unheard: after an abort, a timeout or a broken connection the answer,
 * or the grant itself, may still be on its way.
 */
class Attempts {
  won = false
  readonly #context: AcquireContext
  readonly #attempt: Attempt
  readonly #abandoned: Promise<AttemptResult>[] = []
  #ambiguous = false

  constructor(context: AcquireContext, attempt: Attempt) {
    this.#context = context
    this.#attempt = attempt
  }

  next(signal: AbortSignal): Promise<AttemptResult> {
    const { store, statementTimeoutMs } = this.#context
    return new Promise((resolve, reject) => {
      const answer = store.acquire(this.#attempt)
      const stop = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', abort)
      }
      const abandon = (reason: unknown) => {
        stop()
        this.#ambiguous = true
        this.#abandoned.push(answer)
        reject(reason)
      }
      const abort = () => abandon(signal.reason)
      const timer = setTimeout(() => abandon(noAnswer(statementTimeoutMs)), statementTimeoutMs)
      signal.addEventListener('abort', abort, { once: true })
      answer.then(
        (result) => {
          stop()
          resolve(result)
        },
        (error: unknown) => {
          stop()
          this.#ambiguous ||= error instanceof DatabaseError && error.failure === 'connection'
          reject(error)
        },
      )
    })
  }

  finish(): void {
    if (!this.won && this.#ambiguous) this.#context.background('giving back a lock granted too late', this.#giveBack())
  }

  async #giveBack(): Promise<void> {
    const { store, statementTimeoutMs } = this.#context
    const answers = await Promise.allSettled(this.#abandoned)
    const heard = answers.find((answer) => answer.status === 'fulfilled' && answer.value.granted)
    // Nothing heard: ask once more, by the owner id that the lost attempt had.
    const result = heard?.status === 'fulfilled' ? heard.value : await store.acquire({ ...this.#attempt, ttlMs: 1000 })
    if (!result.granted) return
    const hold = { ...this.#attempt, token: result.token }
    // A try of somebody else's can have the row locked at that very moment.
    await untilUnlocked(async () => (await store.release(hold)) !== 'locked', statementTimeoutMs)
  }
}

async function awaken(waiter: Waiter, deadline: number, signal: AbortSignal): Promise<void> {
  for (;;) {
    const failure = await waiter.next(Math.max(0, deadline - performance.now()), signal)
    if (failure === undefined) return
    if (!(failure instanceof DatabaseError) || failure.failure === 'other' || performance.now() >= deadline)
      throw failure
  }
}

function backoff(failures: number): number {
  return Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (failures - 1)) * (0.5 + Math.random() / 2)
}

/** AbortSignal.any, but leaving nothing behind on signals that outlive the call. */
function followSignals(...sources: (AbortSignal | undefined)[]): { signal: AbortSignal; stop(): void } {
  const controller = new AbortController()
  const undo = sources.map((source) => {
    if (source === undefined) return () => undefined
    const abort = () => controller.abort(source.reason)
    if (source.aborted) abort()
    else source.addEventListener('abort', abort, { once: true })
    return () => source.removeEventListener('abort', abort)
  })
  const stop = () => {
    for (const each of undo) each()
  }
  return { signal: controller.signal, stop }
}
