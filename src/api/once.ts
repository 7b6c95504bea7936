import { type Duration, toMilliseconds } from '../base/duration.ts'
import { LockError, UnstorableResultError } from '../base/errors.ts'
import { fromJson, toJson } from '../base/json.ts'
import type { MarkKey } from '../protocol/marks.ts'
import type { Store } from '../protocol/store.ts'
import type { Lease, LeaseHandle } from './lease.ts'
import { checkName, checkOptions, type LockOptions, refuseMode } from './options.ts'

/** How something is done once. */
export interface OnceOptions extends Omit<LockOptions, 'mode'> {
  /** For how long it counts as done; after that it may run again. Default `Infinity`. */
  readonly keepFor?: Duration | undefined
}

/** The value is what the function gave, in this call or in an earlier one, as JSON carries it. */
export type OnceOutcome<T> = { readonly ran: boolean; readonly value: T }

export interface OnceContext<Tx> {
  readonly store: Store<Tx>
  acquire(name: string, options: LockOptions): Promise<LeaseHandle<Tx>>
  run<T>(lease: LeaseHandle<Tx>, body: (lease: Lease<Tx>) => Promise<T> | T): Promise<T>
  /** Rejects if the instance is closed, or if the server is known not to keep the promises. */
  ready(): Promise<void>
}

/** `locks.once`: a lease keeps others out while it runs, and a mark of the same commit as the lease's guard says that it has. */
export async function once<Tx, T>(
  context: OnceContext<Tx>,
  key: string,
  options: OnceOptions,
  body: (lease: Lease<Tx>) => Promise<T> | T,
): Promise<OnceOutcome<T>> {
  checkOnceBody(body)
  const { keepMs, rest } = toOnce(key, options)
  rest.signal?.throwIfAborted()
  await context.ready()
  const done = async () => outcomeOf<T>((await context.store.readMarks('once', [key])).marks[0])
  // Most calls come after it has run, and need no lock.
  const before = await done()
  if (before !== undefined) return before
  const lease = await context.acquire(key, rest)
  return context.run(lease, async () => {
    const meanwhile = await done()
    if (meanwhile !== undefined) return meanwhile
    const value = await body(lease)
    const result = toResult(key, value)
    await lease.mark({ ...onceKey(key), value: result, keepMs }, value)
    return { ran: true, value: fromJson(result) as T }
  })
}

/** What both kinds of `once` are asked. */
export function toOnce(key: string, options: OnceOptions): { keepMs: number | null; rest: LockOptions } {
  checkName(key)
  checkOptions(options)
  refuseMode(options, 'once', 'nobody else runs it meanwhile')
  const { keepFor = Number.POSITIVE_INFINITY, ...rest } = options
  return { keepMs: toKeepMs(keepFor), rest }
}

export function checkOnceBody(body: unknown): void {
  if (typeof body === 'function') return
  throw new LockError(
    'INVALID_ARGUMENT',
    'once takes a key, options and then a function: once(key, {}, async () => ...)',
  )
}

export function onceKey(name: string): MarkKey {
  return { kind: 'once', name, part: '' }
}

export function outcomeOf<T>(mark: { readonly value: string | null } | undefined): OnceOutcome<T> | undefined {
  return mark && { ran: false, value: fromJson(mark.value) as T }
}

export function toResult(key: string, result: unknown): string | null {
  try {
    return toJson(`the result of once(${JSON.stringify(key)})`, result)
  } catch (cause) {
    throw new UnstorableResultError(key, cause as LockError, result)
  }
}

/** Durations that the database counts, and no timer. */
function toKeepMs(keepFor: Duration): number | null {
  if (keepFor === Number.POSITIVE_INFINITY) return null
  return toMilliseconds('keepFor', keepFor, { min: 1, max: MOST_KEEP_MS })
}

/** As far as the clocks of all databases go; who means longer says Infinity. */
const MOST_KEEP_MS = 1000 * 365.25 * 24 * 60 * 60 * 1000
