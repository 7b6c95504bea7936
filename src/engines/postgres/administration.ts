import { sql } from 'kysely'
import { toBoolean, toNumber } from '../../adapters/shape.ts'
import type { LockView, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { clockToken, type Fragments, free, leftOf, unseen, waiting } from './fragments.ts'
import { array, toState, toView } from './rows.ts'

export function administrationStatements({ locks, view, rowOf }: Fragments) {
  return {
    poll: statement<{ names: string }>(
      'postgres',
      (p) => sql`
        select a.i::int, ${view}
        from unnest(${unseen(p.names)}::text[]) with ordinality as a(name, i),
             ${rowOf(sql`a`)}`,
    ),

    list: statement<{ prefix: string }>(
      'postgres',
      (p) => sql`
        select name, owner, token::text, holder, (${waiting}) as waiters,
               ${leftOf(sql`expires_at`)} as remaining
        from ${locks} as l
        where starts_with(name, ${p.prefix}::text) and not ${free}
        order by name`,
    ),

    inspect: statement<{ name: string }>(
      'postgres',
      (p) => sql`
        select name, owner, token::text, holder, (${waiting}) as waiters,
               ${leftOf(sql`expires_at`)} as remaining
        from ${locks} as l
        where name = ${p.name}::text and not ${free}`,
    ),

    forceRelease: statement<{ name: string }>(
      'postgres',
      (p) => sql`
        with held as (
          select name from ${locks}
          where name = ${p.name}::text and owner is not null and expires_at > clock_timestamp()
          for update skip locked
        ), forced as (
          update ${locks} as l
          set owner = null, session = null, handed_to = null,
              token = greatest(l.token + 1, ${clockToken}), expires_at = clock_timestamp()
          from held
          where l.name = held.name
          returning l.name
        )
        select exists (select from forced) as forced,
               exists (select from ${locks}
                       where name = ${p.name}::text and owner is not null and expires_at > clock_timestamp()) as held`,
    ),

    // A row whose token is ahead of the clock stays: a new row of that name would start at the clock, below it.
    purge: statement<{ idleMs: number }>(
      'postgres',
      (p) => sql`
        with idle as (
          select name from ${locks}
          where expires_at <= clock_timestamp() - ${p.idleMs}::float8 * interval '1 ms' and token < ${clockToken}
            and (queue is null
                 or not exists (select from jsonb_array_elements(queue) as t where (t->>'until')::float8 > ${clockToken}))
          order by name
          for update skip locked
        ), gone as (
          delete from ${locks} as l using idle where l.name = idle.name returning l.name
        )
        select count(*)::int as purged from gone`,
    ),
  }
}

export function administration(
  context: Context<never>,
): Pick<Store<never>, 'poll' | 'inspect' | 'list' | 'forceRelease' | 'purge'> {
  const { runner } = context
  const statements = compiled(context, administrationStatements)
  return {
    async poll(names): Promise<LockView[]> {
      return (await runner.keep(statements().poll({ names: array(names) }))).rows.map((row) =>
        toView(names[toNumber(row.i) - 1]!, row),
      )
    },

    async inspect(name) {
      const [row] = (await runner.run(statements().inspect({ name }))).rows
      return row === undefined ? null : toState(row)
    },

    async list(prefix) {
      return (await runner.run(statements().list({ prefix }))).rows.map(toState)
    },

    async forceRelease(name) {
      const [row] = (await runner.run(statements().forceRelease({ name }))).rows
      if (toBoolean(row?.forced)) return 'released'
      return toBoolean(row?.held) ? 'locked' : 'free'
    },

    async purge(idleMs) {
      const [row] = (await runner.run(statements().purge({ idleMs }))).rows
      return toNumber(row?.purged)
    },
  }
}
