/**
 * The library as Node loads it when it is installed. What runs it from its sources keeps the names of functions at run time,
 * which costs more than some of the things measured here.
 */
async function built<Module>(path: string): Promise<Module> {
  return (await import(new URL(`../dist/node/${path}`, import.meta.url).href)) as Module
}

export const { createLocks, isTransactionAborted } = await built<typeof import('../src/index.ts')>('index.cjs')
export const { postgresStatements } =
  await built<typeof import('../src/engines/postgres/store.ts')>('engines/postgres/store.cjs')
export const { fromBetterSqlite3 } =
  await built<typeof import('../src/adapters/better-sqlite3.ts')>('adapters/better-sqlite3.cjs')
export const { fromDrizzle } = await built<typeof import('../src/adapters/drizzle.ts')>('adapters/drizzle.cjs')
export const { fromKnex } = await built<typeof import('../src/adapters/knex.ts')>('adapters/knex.cjs')
export const { fromKysely } = await built<typeof import('../src/adapters/kysely.ts')>('adapters/kysely.cjs')
export const { fromMysql2 } = await built<typeof import('../src/adapters/mysql2.ts')>('adapters/mysql2.cjs')
export const { fromPg } = await built<typeof import('../src/adapters/pg.ts')>('adapters/pg.cjs')
export const { fromPrisma } = await built<typeof import('../src/adapters/prisma.ts')>('adapters/prisma.cjs')
export const { fromSequelize } = await built<typeof import('../src/adapters/sequelize.ts')>('adapters/sequelize.cjs')
export const { fromTypeorm } = await built<typeof import('../src/adapters/typeorm.ts')>('adapters/typeorm.cjs')
