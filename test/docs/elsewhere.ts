/** What snippets take for granted that this machine may not have. They are compiled, and not run. */
import type { Kysely } from 'kysely'
import type { Pool } from 'pg'
import type { PrismaClient } from '../../src/adapters/prisma.ts'

export declare const pool: Pool
/** Reaches the server directly, where `pool` goes through a pooler. */
export declare const directPool: Pool
export declare const postgresDb: Kysely<unknown>
export declare const prisma: PrismaClient
