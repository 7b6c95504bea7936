import { type RawBuilder, sql } from 'kysely'
import type { Statement } from '../../adapters/adapter.ts'
import { toNumber } from '../../adapters/shape.ts'
import type { Mark, MarkKind, MarkStore, NewMark, ReadMarks } from '../../protocol/marks.ts'
import { statement } from '../statement.ts'
import { afterAllCommits } from '../topology.ts'
import type { Context } from './context.ts'
import { ALL, ASKED, BATCH, batched, engine, type Fragments, now } from './fragments.ts'
import { type AskedLease, bytes, bytesOrNull, isOurs, text, textOrNull, toAskedLease, tokenOf } from './values.ts'

export interface AskedKey {
  readonly kind: Buffer
  readonly name: Buffer
  readonly part: Buffer
}

export interface AskedMark extends AskedKey {
  readonly value: Buffer | null
  readonly token: bigint
  readonly keepMs: number | null
}

type AskedUnder = AskedLease & Omit<AskedMark, 'name' | 'token'>

export function markStatements({ marks, locks, askedLocks }: Fragments) {
  type Values = { [Key in keyof AskedMark]: RawBuilder<AskedMark[Key]> }
  const columns = sql`(kind, name, part, value, token, written_at, expires_at)`
  const read = sql`${now} as clock, m.kind, m.name, m.part, m.value, m.token`
  const isPast = sql`coalesce(m.expires_at <= ${now}, false)`
  const until = (keepMs: RawBuilder<unknown>) => sql`${now} + ${keepMs} * 1000`
  const values = (p: Values) => sql`${p.kind}, ${p.name}, ${p.part}, ${p.value}, ${p.token}, ${now}, ${until(p.keepMs)}`
  const ofKey = (p: { [Key in keyof AskedKey]: RawBuilder<unknown> }) =>
    sql`m.kind = ${p.kind} and m.name = ${p.name} and m.part = ${p.part}`

  return {
    // One row at least, for the clock.
    readMarks: batched<{ kind: Buffer; name: Buffer }>(sql`
        select ${read}
        from ${ASKED} as asked
        left join ${marks} as m force index (primary)
          on m.kind = asked.kind and m.name = asked.name and not ${isPast}
        limit ${sql.lit(ALL)}`),

    // Of a key that has no row yet: one that is past its time, so that nobody sees it.
    makeMark: statement<AskedKey>(
      engine,
      (p) => sql`
        insert ignore into ${marks} ${columns} values (${p.kind}, ${p.name}, ${p.part}, null, 0, ${now}, 0)`,
    ),

    // A write of the lock's row, and not a locking read: only a write takes part in certification (see guard.ts).
    writeMarkUnder: batched<AskedUnder>(sql`
        update (
          select asked.*
          from ${askedLocks}
          where l.owner = asked.owner and l.token = asked.token and l.expires_at > ${now}
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as mine
        straight_join ${locks} as l force index (primary) on l.name = mine.name
        straight_join ${marks} as m force index (primary) on m.kind = mine.kind and m.name = mine.name and m.part = mine.part
        set l.expires_at = greatest(l.expires_at, ${now} + mine.ttl * 1000) + 0 * last_insert_id(mine.token), l.handed_to = null,
            l.checkpointed = greatest(l.checkpointed, mine.kind = 'checkpoint'),
            m.value = mine.value, m.token = mine.token, m.written_at = ${now}, m.expires_at = ${until(sql`mine.keepMs`)}
        where m.token <= mine.token`),

    // Assigned from left to right: the token last, since the others are compared with it.
    writeMark: statement<AskedMark>(
      engine,
      (p) => sql`
        insert into ${marks} ${columns} values (${values(p)})
        on duplicate key update
          value = case when token <= ${p.token} then ${p.value} else value end,
          written_at = case when token <= ${p.token} then ${now} else written_at end,
          expires_at = case when token <= ${p.token} then ${until(p.keepMs)} else expires_at end,
          token = greatest(token, ${p.token})`,
    ),

    deleteMark: statement<AskedKey & { token: bigint }>(
      engine,
      (p) => sql`
        delete m from ${marks} as m where ${ofKey(p)} and m.token <= ${p.token}`,
    ),

    // IGNORE, since then affectedRows is 1 if it was made and 0 if there is one, whatever the client counts.
    beginMark: statement<AskedMark>(
      engine,
      (p) => sql`
        insert ignore into ${marks} ${columns} values (${values(p)})`,
    ),

    // The latest, though this transaction has an older snapshot. The row is there, so no gap is locked.
    markNow: statement<AskedKey>(
      engine,
      (p) => sql`
        select ${read}, ${isPast} as past from ${marks} as m force index (primary) where ${ofKey(p)} for update`,
    ),

    writeMarkIn: statement<AskedMark>(
      engine,
      (p) => sql`
        insert into ${marks} ${columns} values (${values(p)})
        on duplicate key update
          value = ${p.value}, token = ${p.token}, written_at = ${now}, expires_at = ${until(p.keepMs)}`,
    ),

    // That there is one, for whoever takes the lock next. The transaction has the row locked, since it guards the lease.
    checkpointed: statement<{ name: Buffer; token: bigint }>(
      engine,
      (p) => sql`
        update ${locks} set checkpointed = 1 where name = ${p.name} and token = ${p.token}`,
    ),

    // Looked for first: a look for what to lock would lock all rows on its way.
    purgeableMarks: statement<{ idleMs: number }>(
      engine,
      (p) => sql`
        select m.kind, m.name, m.part
        from ${marks} as m
        where m.expires_at <= ${now}
           or m.kind = 'checkpoint' and m.written_at <= ${now} - ${p.idleMs} * 1000
              and not exists (select 1 from ${locks} as l where l.name = m.name)
        limit ${sql.lit(BATCH)}`,
    ),

    purgeMarks: batched<AskedKey & { idleMs: number }>(sql`
        delete m from (
          select asked.kind, asked.name, asked.part
          from ${ASKED} as asked
          straight_join ${marks} as m force index (primary)
            on m.kind = asked.kind and m.name = asked.name and m.part = asked.part
          where m.expires_at <= ${now} or m.kind = 'checkpoint' and m.written_at <= ${now} - asked.idleMs * 1000
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as past
        straight_join ${marks} as m force index (primary) on m.kind = past.kind and m.name = past.name and m.part = past.part`),
  }
}

export function marks<Tx>({ runner, server, fragments, read }: Context<Tx>): MarkStore<Tx> {
  const statements = markStatements(fragments)
  const send = (query: Statement, beside?: boolean) => (beside ? runner.keep(query) : runner.run(query))
  return {
    async readMarks(kind, names, beside) {
      const asked = names.map((name) => ({ kind: bytes(kind), name: bytes(name) }))
      // What a holder on another node has written is to be seen by the next one.
      const query = afterAllCommits(await server.topology(), statements.readMarks(asked))
      return toRead((await send(query, beside)).rows)
    },

    async writeMarkUnder(hold, mark) {
      const key = toKey(mark)
      await runner.run(statements.makeMark(key))
      const { kind, part } = key
      const asked = { ...toAskedLease(hold), kind, part, value: bytesOrNull(mark.value), keepMs: mark.keepMs }
      const result = await runner.run(statements.writeMarkUnder([asked]))
      if (tokenOf(result) !== 0n || Number(result.affectedRows ?? 0) > 0) return 'written'
      const rows = await read([hold])
      return isOurs(hold, rows) && rows.get(hold.name)?.held ? 'locked' : 'lost'
    },

    async writeMark(mark, beside) {
      await send(statements.writeMark(toAsked(mark)), beside)
    },

    async deleteMark(mark) {
      await runner.keep(statements.deleteMark({ ...toKey(mark), token: mark.token }))
    },

    async beginMarkIn(tx, mark) {
      const begun = await runner.runIn(tx, statements.beginMark(toAsked(mark)), ({ affectedRows }) => affectedRows)
      if (Number(begun) === 1) return undefined
      const { rows } = await runner.runIn(tx, statements.markNow(toKey(mark)), (result) => result)
      if (rows[0] !== undefined && toNumber(rows[0].past) === 0) return toMark(rows[0])
      await runner.runIn(tx, statements.writeMarkIn(toAsked(mark)), () => undefined)
      return undefined
    },

    async writeMarkIn(tx, mark) {
      await runner.runIn(tx, statements.writeMarkIn(toAsked(mark)), () => undefined)
      if (mark.kind !== 'checkpoint') return
      const { name } = toKey(mark)
      await runner.runIn(tx, statements.checkpointed({ name, token: mark.token }), () => undefined)
    },

    async deleteMarkIn(tx, mark) {
      await runner.runIn(tx, statements.deleteMark({ ...toKey(mark), token: mark.token }), () => undefined)
    },
  }
}

/** Of what is past its time, and of checkpoints whose lock is not known any more. */
export function markPurger({ runner, fragments }: Pick<Context<never>, 'runner' | 'fragments'>) {
  const statements = markStatements(fragments)
  return async (idleMs: number): Promise<void> => {
    for (;;) {
      const { rows } = await runner.run(statements.purgeableMarks({ idleMs }))
      if (rows.length === 0) return
      const past = rows.map(({ kind, name, part }) => ({
        kind: bytes(text(kind)),
        name: bytes(text(name)),
        part: bytes(text(part)),
        idleMs,
      }))
      const purged = await runner.run(statements.purgeMarks(past))
      // Those that are left are locked by a transaction.
      if (rows.length < BATCH || Number(purged.affectedRows ?? 0) === 0) return
    }
  }
}

function toKey({ kind, name, part }: Pick<Mark, 'kind' | 'name' | 'part'>): AskedKey {
  return { kind: bytes(kind), name: bytes(name), part: bytes(part) }
}

function toAsked(mark: NewMark): AskedMark {
  return { ...toKey(mark), value: bytesOrNull(mark.value), token: mark.token, keepMs: mark.keepMs }
}

function toRead(rows: readonly Record<string, unknown>[]): ReadMarks {
  return {
    now: toNumber(rows[0]?.clock) / 1000,
    marks: rows.filter(({ kind }) => kind !== null).map(toMark),
  }
}

function toMark({ kind, name, part, value, token }: Record<string, unknown>): Mark {
  return {
    kind: text(kind) as MarkKind,
    name: text(name),
    part: text(part),
    value: textOrNull(value),
    token: BigInt(token as string),
  }
}
