import { type RawBuilder, sql } from 'kysely'
import { toNumber } from '../../adapters/shape.ts'
import type { Hold, LockView, ResizeResult, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { clockToken, type Fragments, free, unseen } from './fragments.ts'
import { array, toGrants, toHolders, toKind, toState, toView } from './rows.ts'

export function administrationStatements({ locks, named, holders, view, rowOf }: Fragments) {
  const states = (which: RawBuilder<unknown>) => sql`
        select s.*
        from (
          select l.name, l.permits, l.queue::text as queue, ${clockToken}::text as now, ${holders} as holders
          from ${locks} as l
          where ${which} and (l.used > 0 or not ${free})
        ) as s
        where s.holders is not null
        order by s.name`

  return {
    poll: statement<{ names: string }>(
      'postgres',
      (p) => sql`
        select a.i::int, ${view}
        from unnest(${unseen(p.names)}::text[]) with ordinality as a(name, i),
             ${rowOf(sql`a`)}`,
    ),

    list: statement<{ prefix: string }>('postgres', (p) => states(sql`starts_with(l.name, ${p.prefix}::text)`)),

    inspect: statement<{ name: string }>('postgres', (p) => states(sql`l.name = ${p.name}::text`)),

    forceRelease: statement<{ name: string; token: bigint | null }>(
      'postgres',
      (p) => sql`
        select outcome from ${named('force_release_1')}(${p.name}::text, ${p.token}::bigint) as outcome`,
    ),

    purge: statement<{ idleMs: number }>(
      'postgres',
      (p) => sql`
        select purged from ${named('purge_1')}(${p.idleMs}::float8) as purged`,
    ),

    openSemaphore: statement<{ name: string; permits: number }>(
      'postgres',
      (p) => sql`
        select permits from ${named('open_1')}(${p.name}::text, ${p.permits}::int) as permits`,
    ),

    resize: statement<{ name: string; permits: number; process: string }>(
      'postgres',
      (p) => sql`
        select outcome, grants::text
        from ${named('resize_1')}(${p.name}::text, ${p.permits}::int, ${p.process}::text)`,
    ),

    available: statement<{ name: string }>(
      'postgres',
      (p) => sql`
        select l.permits, ${holders} as holders
        from ${locks} as l
        where l.name = ${p.name}::text`,
    ),

    downgrade: statement<Hold & { process: string }>(
      'postgres',
      (p) => sql`
        select outcome, slot, grants::text
        from ${named('downgrade_1')}(${p.name}::text, ${p.owner}::text, ${p.token}::bigint, ${p.process}::text)`,
    ),
  }
}

export function administration(
  context: Context<never>,
): Pick<
  Store<never>,
  'poll' | 'inspect' | 'list' | 'forceRelease' | 'purge' | 'openSemaphore' | 'resize' | 'available' | 'downgrade'
> {
  const { runner } = context
  const statements = compiled(context, administrationStatements)
  return {
    async poll(names): Promise<LockView[]> {
      return (await runner.keep(statements().poll({ names: array(names) }))).rows.map((row) =>
        toView(names[toNumber(row.i) - 1]!, row),
      )
    },

    async inspect(name, beside) {
      const query = statements().inspect({ name })
      const [row] = (await (beside ? runner.keep(query) : runner.run(query))).rows
      return row === undefined ? null : toState(row)
    },

    async list(prefix) {
      return (await runner.run(statements().list({ prefix }))).rows.map(toState)
    },

    async forceRelease(name, token) {
      const [row] = (await runner.run(statements().forceRelease({ name, token: token ?? null }))).rows
      return row!.outcome as 'released' | 'free' | 'locked'
    },

    async purge(idleMs) {
      const [row] = (await runner.run(statements().purge({ idleMs }))).rows
      return toNumber(row?.purged)
    },

    async openSemaphore(name, permits) {
      const [row] = (await runner.run(statements().openSemaphore({ name, permits }))).rows
      return toKind(row!.permits)
    },

    async resize(name, permits, process) {
      const [row] = (await runner.run(statements().resize({ name, permits, process }))).rows
      return { outcome: row!.outcome as ResizeResult['outcome'], grants: toGrants(name, row!.grants) }
    },

    async available(name) {
      const [row] = (await runner.run(statements().available({ name }))).rows
      if (row === undefined) return null
      if (row.permits === null) return 'lock'
      const taken = toHolders(name, row.holders).reduce((sum, { weight }) => sum + weight!, 0)
      return Math.max(0, toNumber(row.permits) - taken)
    },

    async downgrade({ name, owner, token }, process) {
      const [row] = (await runner.keep(statements().downgrade({ name, owner, token, process }))).rows
      if (row!.outcome !== 'downgraded') return { outcome: row!.outcome as 'lost' | 'locked' }
      return { outcome: 'downgraded', slot: toNumber(row!.slot), grants: toGrants(name, row!.grants) }
    },
  }
}
