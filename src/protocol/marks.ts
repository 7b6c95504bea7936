/**
 * What a mark says. once: that a key is done, and with which result. job: when it is to run, as it was deployed last, and which
 * of its instants was claimed. checkpoint: what a holder left to the next one. metadata: what a holder says of itself. resign:
 * that a leader is asked to.
 */
export type MarkKind = 'once' | 'job' | 'checkpoint' | 'metadata' | 'resign'

export interface MarkKey {
  readonly kind: MarkKind
  readonly name: string
  /** Tells those of one kind and name apart; mostly ''. */
  readonly part: string
}

/** What was done, or is left for others: a row of its own, beside the locks. */
export interface Mark extends MarkKey {
  /** JSON; null: undefined. */
  readonly value: string | null
  /** Of the hold under which it was written: one with a lower token does not replace it. */
  readonly token: bigint
}

export interface NewMark extends Mark {
  /** After that it is as if it had never been. Null: kept for ever. */
  readonly keepMs: number | null
}

export interface ReadMarks {
  /** By the database's clock, in milliseconds since 1970. */
  readonly now: number
  readonly marks: readonly Mark[]
}

/** An exclusive hold, as its holder knows it. */
export interface StandingHold {
  readonly name: string
  readonly owner: string
  readonly token: bigint
  readonly ttlMs: number
}

/** locked: the hold is ours, but a transaction has its row locked; nothing was written. */
export type MarkResult = 'written' | 'lost' | 'locked'

/** The marks of one engine: one attempt per call, as of a `Store`. */
export interface MarkStore<Tx> {
  /**
   * Those of these names, with all their parts; nothing that is past its time. `beside` what the application does with its pool, on
   * rowlock's own connection: what leases and waiters need does not depend on the pool.
   */
  readMarks(kind: MarkKind, names: readonly string[], beside?: boolean): Promise<ReadMarks>
  /**
   * Writes it, which may be a checkpoint, if that exclusive hold stands at the commit, in one statement that makes the commit depend on it, as a guard does; 'lost'
   * if not, or if a mark with a higher token is there. Safe to repeat.
   */
  writeMarkUnder(hold: StandingHold, mark: NewMark): Promise<MarkResult>
  /** Writes it whoever holds what, unless one with a higher token is there. Safe to repeat. `beside` as of `readMarks`. */
  writeMark(mark: NewMark, beside?: boolean): Promise<void>
  /** Unless its token is higher. On rowlock's own connection. */
  deleteMark(mark: MarkKey & { readonly token: bigint }): Promise<void>
  /**
   * In the caller's transaction, which has the lock of that name, so that nobody else writes it meanwhile: writes the mark if
   * there is none, and answers the one that is there. A snapshot that is older than that one ends the transaction.
   */
  beginMarkIn(tx: Tx, mark: NewMark): Promise<Mark | undefined>
  /** The same, whatever is there. A checkpoint in a transaction that the hold of that token guards. */
  writeMarkIn(tx: Tx, mark: NewMark): Promise<void>
  deleteMarkIn(tx: Tx, mark: MarkKey & { readonly token: bigint }): Promise<void>
}
