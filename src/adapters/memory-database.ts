import { brandClass } from '../base/brand.ts'
import { LockError } from '../base/errors.ts'
import type { LockRow } from '../protocol/lock-row.ts'
import type { Mark } from '../protocol/marks.ts'
import type { Grant, Hold } from '../protocol/store.ts'

/** An open transaction of a {@link MemoryDatabase}. */
export class MemoryTransaction {
  static {
    brandClass(MemoryTransaction, 'MemoryTransaction')
  }

  /** @internal What ends with the transaction. */
  readonly onEnd: (() => void)[] = []
  /** @internal What becomes true with the commit, in order. */
  readonly onCommit: (() => void)[] = []
  /** @internal What it holds, by the names of the locks. */
  readonly holds = new Map<string, Pick<Hold, 'owner' | 'token'>>()
  /** @internal The marks that it has written, or deleted. */
  readonly marks = new Map<string, StoredMark | undefined>()
  /** False from its end on. */
  open = true
}

/** Times are milliseconds since 1970. */
export interface StoredMark extends Mark {
  readonly writtenAt: number
  readonly expiresAt: number
}

/** A lock's row, and the open transactions that have it locked, or slots of it. */
export interface MemoryRow {
  row: LockRow
  readonly lockedBy: Set<MemoryTransaction>
  readonly slotsLockedBy: Map<number, Set<MemoryTransaction>>
}

/**
 * Locks in this process's memory, for unit tests: pass one to as many `fromMemory` as there would be processes. Its clock
 * begins at `Date.now()` when it is made, and goes on as `performance.now()` does, so fake timers set and move it.
 */
export class MemoryDatabase {
  /** @internal */
  readonly rows = new Map<string, MemoryRow>()
  /** @internal Processes that are told of what is handed over to them. */
  readonly listeners = new Map<string, (grant: Grant) => void>()
  /** @internal What processes say of their calls that wait, and when they said it. */
  readonly waits = new Map<string, { readonly waits: string; readonly saidAt: number }>()

  /** @internal What was done, and what holders left to others. */
  readonly marks = new Map<string, StoredMark>()

  /** @internal Milliseconds since 1970: those of Date when it was made, and from then on as performance.now() goes. */
  now(): number {
    return this.#origin + performance.now()
  }

  readonly #origin = Date.now() - performance.now()

  /** Gives guards and `within` something to hold on to. Only what locks do in it is undone if `body` rejects. */
  async transaction<T>(body: (tx: MemoryTransaction) => Promise<T>): Promise<T> {
    const tx = new MemoryTransaction()
    try {
      const result = await body(tx)
      for (const apply of tx.onCommit) apply()
      return result
    } finally {
      tx.open = false
      for (const end of tx.onEnd) end()
    }
  }
}

export function checkOpen(tx: MemoryTransaction): void {
  if (tx instanceof MemoryTransaction && tx.open) return
  throw new LockError('INVALID_ARGUMENT', 'this needs an open transaction of the MemoryDatabase: see its transaction()')
}
