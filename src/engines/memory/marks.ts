import {
  checkOpen,
  type MemoryDatabase,
  type MemoryTransaction,
  type StoredMark,
} from '../../adapters/memory-database.ts'
import * as lockRow from '../../protocol/lock-row.ts'
import type { MarkKey, MarkStore, NewMark } from '../../protocol/marks.ts'

/** `world`: as its row is seen from outside of transactions. */
export function marks(
  database: MemoryDatabase,
  world: (of: NonNullable<ReturnType<MemoryDatabase['rows']['get']>>) => lockRow.World,
): MarkStore<MemoryTransaction> {
  const stored = database.marks
  const isPastNow = (mark: StoredMark) => isPast(mark, database.now())
  const toStoredNow = (mark: NewMark) => toStored(mark, database.now())

  function put(mark: NewMark): void {
    stored.set(keyOf(mark), toStoredNow(mark))
  }

  /** What the transaction wrote, or what is there. */
  function seenIn(tx: MemoryTransaction, key: MarkKey): StoredMark | undefined {
    checkOpen(tx)
    const text = keyOf(key)
    return tx.marks.has(text) ? tx.marks.get(text) : stored.get(text)
  }

  function changeIn(tx: MemoryTransaction, key: MarkKey, mark: StoredMark | undefined): void {
    checkOpen(tx)
    const text = keyOf(key)
    tx.marks.set(text, mark)
    tx.onCommit.push(() => {
      if (mark === undefined) stored.delete(text)
      else stored.set(text, mark)
    })
  }

  return {
    async readMarks(kind, names) {
      const isAsked = (mark: StoredMark) => mark.kind === kind && names.includes(mark.name) && !isPastNow(mark)
      return { now: database.now(), marks: [...stored.values()].filter(isAsked) }
    },

    async writeMarkUnder(hold, mark) {
      const found = database.rows.get(hold.name)
      if (found === undefined || lockRow.guard(found.row, hold, world(found)) !== 'stands') return 'lost'
      if (!isReplaceable(stored.get(keyOf(mark)), mark)) return 'lost'
      put(mark)
      return 'written'
    },

    async writeMark(mark) {
      if (isReplaceable(stored.get(keyOf(mark)), mark)) put(mark)
    },

    async deleteMark(mark) {
      if (isReplaceable(stored.get(keyOf(mark)), mark)) stored.delete(keyOf(mark))
    },

    async beginMarkIn(tx, mark) {
      const found = seenIn(tx, mark)
      if (found !== undefined && !isPastNow(found)) return found
      changeIn(tx, mark, toStoredNow(mark))
      return undefined
    },

    async writeMarkIn(tx, mark) {
      changeIn(tx, mark, toStoredNow(mark))
    },

    async deleteMarkIn(tx, key) {
      changeIn(tx, key, undefined)
    },
  }
}

/** A holder has left something to the next one. */
export function isCheckpointed({ marks }: MemoryDatabase, name: string): boolean {
  return marks.has(keyOf({ kind: 'checkpoint', name, part: '' }))
}

export function purgeMarks(database: MemoryDatabase, idleMs: number): void {
  const { marks, rows } = database
  const now = database.now()
  const isLeft = ({ kind, name, writtenAt }: StoredMark) =>
    kind === 'checkpoint' && writtenAt <= now - idleMs && !rows.has(name)
  for (const [key, mark] of marks) if (isPast(mark, now) || isLeft(mark)) marks.delete(key)
}

function keyOf({ kind, name, part }: MarkKey): string {
  return `${kind}\0${part}\0${name}`
}

function toStored({ keepMs, ...mark }: NewMark, writtenAt: number): StoredMark {
  return { ...mark, writtenAt, expiresAt: keepMs === null ? Number.POSITIVE_INFINITY : writtenAt + keepMs }
}

function isPast({ expiresAt }: StoredMark, now: number): boolean {
  return expiresAt <= now
}

function isReplaceable(found: StoredMark | undefined, { token }: { readonly token: bigint }): boolean {
  return found === undefined || found.token <= token
}
