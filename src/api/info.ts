import { fromJson } from '../base/json.ts'
import type { MarkStore } from '../protocol/marks.ts'
import type { HolderState, LockState } from '../protocol/store.ts'
import { MOST_NAMES } from './options.ts'

/** One of those who hold a lock. */
export interface HolderInfo extends HolderState {
  /** By the database's clock, as its token tells; later than it was if that clock had been set back before. */
  readonly acquiredAt: Date
  /** What it said of itself when it acquired the lock; undefined if nothing. */
  readonly metadata: unknown
}

/** A lock that is held, or a semaphore of which permits are. */
export interface LockInfo extends LockState {
  readonly holders: readonly HolderInfo[]
}

/** With what is kept beside the locks. */
export async function toInfo(marks: MarkStore<never>, states: readonly LockState[]): Promise<LockInfo[]> {
  const metadata = new Map<string, unknown>()
  for (let from = 0; from < states.length; from += MOST_NAMES) {
    const names = states.slice(from, from + MOST_NAMES).map(({ name }) => name)
    const read = await marks.readMarks('metadata', names)
    for (const { name, part, value } of read.marks) metadata.set(`${part} ${name}`, fromJson(value))
  }
  return states.map((state) => ({
    ...state,
    holders: state.holders.map((holder) => ({
      ...holder,
      acquiredAt: toAcquiredAt(holder.token),
      metadata: metadata.get(`${holder.owner} ${state.name}`),
    })),
  }))
}

/** A token is at least the microseconds since 1970 when it was granted. */
export function toAcquiredAt(token: bigint): Date {
  return new Date(Number(token / 1000n))
}
